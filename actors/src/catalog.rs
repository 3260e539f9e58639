//! The catalog: categories, products and their stock.

use serde_json::{Value, json};
use shop_persistence::catalog::{
    self, Category, CategoryCursor, CategoryId, FIRST_VERSION, NewCategory, NewProduct, Offer,
    Product, ProductId,
};
use shop_persistence::events::{Event, ProductCreated, ReceivedEvent, StockMoved};
use shop_persistence::outbox::{self, OutboxEvent};
use shop_persistence::pages::PageRequest;
use shop_persistence::stock::{self, Movement};
use shop_persistence::{Database, InvalidValue, Session};
use shop_runtime::{Actor, ActorContext, Addr, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::subscriptions::{AnySubscription, Subscription};
use crate::{Reply, Result};

/// Messages of the catalog.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Adds a category.
    AddCategory(NewCategory, Option<IdempotencyKey>, Reply<Replayable<Category>>),
    /// Lists categories, each parent before its children.
    ListCategories(PageRequest<CategoryCursor>, Reply<Vec<Category>>),
    /// Adds a product with its initial stock.
    AddProduct(NewProduct, Option<IdempotencyKey>, Reply<Replayable<Product>>),
    /// Lists products in ascending id.
    ListProducts(PageRequest<ProductId>, Reply<Vec<Product>>),
    /// Lists the products of one category in ascending id.
    ListProductsOf(CategoryId, PageRequest<ProductId>, Reply<Vec<Product>>),
    /// Applies stock movements of the order node.
    ApplyMovements(Vec<Movement>, Reply<()>),
    /// Advances the id sequence past this product, which the order node knows.
    AdvanceIds(ProductId, Reply<()>),
}

/// The actor that serves a shard of the catalog.
#[derive(Debug)]
pub struct Catalog {
    session: Session,
}

impl Catalog {
    /// A shard of the catalog of this database.
    pub fn new(database: &Database) -> Catalog {
        Catalog { session: database.announcing_session() }
    }

    async fn add_category(
        &mut self,
        new: NewCategory,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Category>> {
        change(&mut self.session, key, async |tx| Ok(catalog::insert_category(tx, &new).await?))
            .await
    }

    async fn list_categories(
        &mut self,
        page: PageRequest<CategoryCursor>,
    ) -> Result<Vec<Category>> {
        Ok(catalog::list_categories(self.session.connection().await?, page).await?)
    }

    async fn add_product(
        &mut self,
        new: NewProduct,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Product>> {
        change(&mut self.session, key, async |tx| {
            let product = catalog::insert_product(tx, &new).await?;
            let stocked = Movement::stocked(product.id, FIRST_VERSION, new.quantity);
            stock::apply(tx, &[stocked]).await?;
            let product = Product { storage_quantity: new.quantity, ..product };
            let created = ProductCreated(Offer {
                id: product.id,
                name: product.name.clone(),
                price: product.price,
                quantity: new.quantity,
                category_id: product.category_id,
            });
            outbox::append(tx, &[OutboxEvent::new(&created, FIRST_VERSION)?]).await?;
            Ok(product)
        })
        .await
    }

    async fn list_products(&mut self, page: PageRequest<ProductId>) -> Result<Vec<Product>> {
        Ok(catalog::list_products(self.session.connection().await?, page).await?)
    }

    async fn list_products_of(
        &mut self,
        id: CategoryId,
        page: PageRequest<ProductId>,
    ) -> Result<Vec<Product>> {
        Ok(catalog::list_products_of(self.session.connection().await?, id, page).await?)
    }

    async fn apply_movements(&mut self, movements: Vec<Movement>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        stock::apply(&mut tx, &movements).await?;
        Ok(tx.commit().await?)
    }

    async fn advance_ids(&mut self, newest: ProductId) -> Result<()> {
        let mut tx = self.session.begin().await?;
        catalog::skip(&mut tx, newest).await?;
        Ok(tx.commit().await?)
    }
}

impl Actor for Catalog {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::AddCategory(new, key, reply) => respond(reply, self.add_category(new, key).await),
            Msg::ListCategories(page, reply) => respond(reply, self.list_categories(page).await),
            Msg::AddProduct(new, key, reply) => respond(reply, self.add_product(new, key).await),
            Msg::ListProducts(page, reply) => respond(reply, self.list_products(page).await),
            Msg::ListProductsOf(id, page, reply) => {
                respond(reply, self.list_products_of(id, page).await)
            }
            Msg::ApplyMovements(movements, reply) => {
                respond(reply, self.apply_movements(movements).await)
            }
            Msg::AdvanceIds(newest, reply) => respond(reply, self.advance_ids(newest).await),
        }
    }
}

/// The events that catalog actors apply.
pub fn subscriptions(catalog: &Addr<Msg>) -> Vec<AnySubscription> {
    vec![AnySubscription::new(StockEvents(catalog.clone()))]
}

struct StockEvents(Addr<Msg>);

impl Subscription for StockEvents {
    type Update = Vec<Movement>;

    fn queue(&self) -> &'static str {
        StockMoved::NAME
    }

    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<Vec<Movement>, InvalidValue> {
        Ok(event.read::<StockMoved>()?.movements)
    }

    fn apply(&self, updates: Vec<Vec<Movement>>) -> impl Future<Output = Result<()>> + Send {
        self.0.ask((), move |reply| Msg::ApplyMovements(updates.concat(), reply))
    }
}
