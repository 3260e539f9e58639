//! Deciding an order: whether it can be placed with what is left.

use std::collections::{HashMap, HashSet};

use super::{OrderedProduct, length, quantity};
use crate::ids::{ProductId, UserId};
use crate::{Error, FieldError, Result};

/// An order to place.
#[derive(Debug, Clone)]
pub struct NewOrder {
    pub(super) user_id: UserId,
    /// Each product once.
    pub(super) items: Vec<LineItem>,
}

/// A product and its quantity, and the index of the item of the request that named it first.
#[derive(Debug, Clone)]
pub(super) struct LineItem {
    pub(super) product: ProductId,
    quantity: i64,
    index: usize,
}

impl NewOrder {
    /// An order of 1 to 100 items `(product, quantity)`. A product that is named twice is one item
    /// with the sum.
    pub fn new(user_id: UserId, named: Vec<(ProductId, i64)>) -> Result<NewOrder> {
        length(named.len()).map_err(|why| Error::invalid_field("items", why.to_string()))?;
        let mut items: Vec<LineItem> = Vec::with_capacity(named.len());
        let mut errors = vec![];
        for (index, (product, pieces)) in named.into_iter().enumerate() {
            let sum = match items.iter_mut().find(|item| item.product == product) {
                Some(item) => {
                    item.quantity += pieces;
                    item.quantity
                }
                None => {
                    items.push(LineItem { product, quantity: pieces, index });
                    pieces
                }
            };
            if let Err(why) = quantity(sum) {
                let detail = format!("all of product {product} together {why}");
                errors
                    .push(FieldError { field: format!("items[{index}].quantity").into(), detail });
            }
        }
        if errors.is_empty() {
            Ok(NewOrder { user_id, items })
        } else {
            Err(Error::Invalid(errors))
        }
    }

    /// The user it will belong to.
    pub fn user_id(&self) -> UserId {
        self.user_id
    }
}

/// Why an order was not placed.
#[derive(Debug)]
pub enum Refusal {
    /// It names a user or products that this node does not know. Their events may arrive yet.
    UnknownReference(Vec<FieldError>),
    /// It cannot be placed.
    Final(Error),
}

/// The products that are for sale.
pub type Inventory = HashMap<ProductId, StockedProduct>;

/// A product for sale.
#[derive(Debug, Clone)]
pub struct StockedProduct {
    /// Its name.
    pub name: String,
    /// The price of one, in the smallest unit of the shop's currency.
    pub price: i64,
    /// The number of pieces that are left.
    pub quantity: i64,
}

/// An order that can be placed: its products with their quantities, and the totals.
#[derive(Debug)]
pub struct PricedOrder<'n> {
    pub(super) new: &'n NewOrder,
    pub(super) items: Vec<(OrderedProduct, i64)>,
    pub(super) total_quantity: i64,
    pub(super) total_price: i64,
}

/// Decides one order. If it can be placed, takes its quantities from the inventory.
pub fn decide<'n>(
    new: &'n NewOrder,
    customers: &HashSet<UserId>,
    inventory: &mut Inventory,
) -> Result<PricedOrder<'n>, Refusal> {
    let unknown = unknown_references(new, customers, inventory);
    if !unknown.is_empty() {
        return Err(Refusal::UnknownReference(unknown));
    }
    let mut order = PricedOrder { new, items: vec![], total_quantity: 0, total_price: 0 };
    let mut short = vec![];
    for LineItem { product: id, quantity, .. } in &new.items {
        let product = &inventory[id];
        if product.quantity < *quantity {
            let StockedProduct { name, quantity: left, .. } = product;
            short.push(format!(
                "only {left} of product {id} ({name}) are left, {quantity} were asked for"
            ));
            continue;
        }
        let price = product.price.checked_mul(*quantity);
        let Some(price) = price.and_then(|price| price.checked_add(order.total_price)) else {
            return Err(Refusal::Final(Error::invalid_field("items", too_expensive())));
        };
        order.total_price = price;
        order.total_quantity += quantity;
        let ordered = OrderedProduct { id: *id, name: product.name.clone(), price: product.price };
        order.items.push((ordered, *quantity));
    }
    if !short.is_empty() {
        return Err(Refusal::Final(Error::Conflict(format!("{}; order fewer", short.join("; ")))));
    }
    for LineItem { product: id, quantity, .. } in &new.items {
        inventory.entry(*id).and_modify(|product| product.quantity -= quantity);
    }
    Ok(order)
}

fn unknown_references(
    new: &NewOrder,
    customers: &HashSet<UserId>,
    inventory: &Inventory,
) -> Vec<FieldError> {
    let mut unknown = vec![];
    if !customers.contains(&new.user_id) {
        let detail = "must be the id of a user who exists".to_owned();
        unknown.push(FieldError { field: "user_id".into(), detail });
    }
    for item in new.items.iter().filter(|item| !inventory.contains_key(&item.product)) {
        let field = format!("items[{}].product_id", item.index).into();
        let detail = "must be the id of a product that exists".to_owned();
        unknown.push(FieldError { field, detail });
    }
    unknown
}

pub(super) fn too_expensive() -> String {
    format!("the order must not cost more than {}", i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn inventory(left: &[i64]) -> Inventory {
        let product = |&quantity: &i64| StockedProduct { name: "cup".into(), price: 7, quantity };
        (0..).zip(left.iter().map(product)).collect()
    }

    fn left(inventory: &Inventory) -> i64 {
        inventory.values().map(|product| product.quantity).sum()
    }

    /// Up to 30 orders of up to 5 items each, of products with 0 to 40 pieces.
    fn orders_and_stock() -> impl Strategy<Value = (Vec<Vec<(ProductId, i64)>>, Vec<i64>)> {
        let stock = prop::collection::vec(0..=40_i64, 1..=4);
        stock.prop_flat_map(|stock| {
            let item = (0..stock.len() as ProductId, 1..=15_i64);
            let order = prop::collection::vec(item, 1..=5);
            (prop::collection::vec(order, 0..=30), Just(stock))
        })
    }

    proptest! {
        #[test]
        fn orders_never_sell_more_than_there_is((orders, stock) in orders_and_stock()) {
            let buyer = Uuid::now_v7();
            let customers = HashSet::from([buyer]);
            let mut inventory = inventory(&stock);
            let mut sold = 0;
            for named in orders {
                let before = inventory.clone();
                let fits = before.iter().all(|(id, product)| {
                    let ordered = named.iter().filter(|(named, _)| named == id);
                    ordered.map(|(_, pieces)| pieces).sum::<i64>() <= product.quantity
                });
                let new = NewOrder::new(buyer, named.clone()).expect("an order");
                let decision = decide(&new, &customers, &mut inventory);
                prop_assert_eq!(decision.is_ok(), fits, "earlier orders decide, and nothing else");
                match decision {
                    Ok(order) => {
                        let pieces: i64 = named.iter().map(|(_, pieces)| pieces).sum();
                        prop_assert_eq!(order.total_quantity, pieces);
                        prop_assert_eq!(order.total_price, 7 * pieces);
                        let products: HashSet<_> = order.items.iter().map(|(p, _)| p.id).collect();
                        prop_assert_eq!(products.len(), order.items.len(), "each product once");
                        sold += pieces;
                    }
                    Err(_) => prop_assert_eq!(left(&inventory), left(&before), "all or nothing"),
                }
                prop_assert!(inventory.values().all(|product| product.quantity >= 0));
                prop_assert_eq!(left(&inventory) + sold, stock.iter().sum::<i64>());
            }
        }
    }
}
