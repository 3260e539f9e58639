//! The owner of the catalog: categories, products, and the stock that came and went.

use serde_json::{Value, json};
use shop_persistence::catalog::{
    self, Category, CategoryId, FIRST_VERSION, NewCategory, NewProduct, Place, Product, ProductId,
};
use shop_persistence::lists::Part;
use shop_persistence::outbox::{self, Entry};
use shop_persistence::stock::{self, Movement, Offer};
use shop_persistence::{Database, Event, Result, Session};
use strum::IntoStaticStr;

use crate::idempotency::{Done, Once, change};
use crate::{Handled, Me, Owner, Reply, answer};

/// What the owner of the catalog may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// An administrator adds a category.
    AddCategory(NewCategory, Option<Once>, Reply<Done<Category>>),
    /// Categories, each parent before its children.
    ListCategories(Part<Place>, Reply<Vec<Category>>),
    /// An administrator adds a product and stocks it.
    AddProduct(NewProduct, Option<Once>, Reply<Done<Product>>),
    /// Products.
    ListProducts(Part<ProductId>, Reply<Vec<Product>>),
    /// Products of one category.
    ListProductsOf(CategoryId, Part<ProductId>, Reply<Vec<Product>>),
    /// The order node sold pieces, or took them back.
    Move(Vec<Movement>, Reply<()>),
    /// The order node knows products up to this one: no other shall have one of these ids.
    PassOver(ProductId, Reply<()>),
}

/// Owns the catalog.
#[derive(Debug)]
pub struct Catalog {
    session: Session,
}

impl Catalog {
    /// An owner of the catalog in this database.
    pub fn new(database: &Database) -> Catalog {
        Catalog { session: database.announcing_session() }
    }

    async fn add_category(
        &mut self,
        new: NewCategory,
        once: Option<Once>,
    ) -> Result<Done<Category>> {
        change(&mut self.session, once, async |tx| catalog::insert_category(tx, &new).await).await
    }

    async fn list_categories(&mut self, part: Part<Place>) -> Result<Vec<Category>> {
        catalog::list_categories(self.session.connection().await?, part).await
    }

    async fn add_product(&mut self, new: NewProduct, once: Option<Once>) -> Result<Done<Product>> {
        change(&mut self.session, once, async |tx| {
            let product = catalog::insert_product(tx, &new).await?;
            let stocked = Movement::stocked(product.id, FIRST_VERSION, new.quantity);
            stock::apply(tx, &[stocked]).await?;
            let product = Product { storage_quantity: new.quantity, ..product };
            let offer = Event::ProductCreated(Offer {
                id: product.id,
                name: product.name.clone(),
                price: product.price,
                quantity: new.quantity,
                category_id: product.category_id,
            });
            outbox::append(tx, &[Entry::new(offer, FIRST_VERSION)]).await?;
            Ok(product)
        })
        .await
    }

    async fn list_products(&mut self, part: Part<ProductId>) -> Result<Vec<Product>> {
        catalog::list_products(self.session.connection().await?, part).await
    }

    async fn list_products_of(
        &mut self,
        id: CategoryId,
        part: Part<ProductId>,
    ) -> Result<Vec<Product>> {
        catalog::list_products_of(self.session.connection().await?, id, part).await
    }

    async fn move_stock(&mut self, movements: Vec<Movement>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        stock::apply(&mut tx, &movements).await?;
        tx.commit().await
    }

    async fn pass_over(&mut self, newest: ProductId) -> Result<()> {
        let mut tx = self.session.begin().await?;
        catalog::pass_over(&mut tx, newest).await?;
        tx.commit().await
    }
}

impl Owner for Catalog {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &Me<Msg>, message: Msg) -> Handled {
        match message {
            Msg::AddCategory(new, once, reply) => answer(reply, self.add_category(new, once).await),
            Msg::ListCategories(part, reply) => answer(reply, self.list_categories(part).await),
            Msg::AddProduct(new, once, reply) => answer(reply, self.add_product(new, once).await),
            Msg::ListProducts(part, reply) => answer(reply, self.list_products(part).await),
            Msg::ListProductsOf(id, part, reply) => {
                answer(reply, self.list_products_of(id, part).await)
            }
            Msg::Move(movements, reply) => answer(reply, self.move_stock(movements).await),
            Msg::PassOver(newest, reply) => answer(reply, self.pass_over(newest).await),
        }
    }
}
