//! The owner of the catalog: categories, products, and the stock that came and went.

use serde_json::{Value, json};
use shop_persistence::catalog::{
    self, Category, CategoryCursor, CategoryId, FIRST_VERSION, NewCategory, NewProduct, Product,
    ProductId,
};
use shop_persistence::outbox::{self, OutboxEvent};
use shop_persistence::pages::PageRequest;
use shop_persistence::stock::{self, Movement, Offer};
use shop_persistence::{Database, Event, Result, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::Reply;
use crate::idempotency::{IdempotencyKey, Replayable, change};

/// What the owner of the catalog may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// An administrator adds a category.
    AddCategory(NewCategory, Option<IdempotencyKey>, Reply<Replayable<Category>>),
    /// Categories, each parent before its children.
    ListCategories(PageRequest<CategoryCursor>, Reply<Vec<Category>>),
    /// An administrator adds a product and stocks it.
    AddProduct(NewProduct, Option<IdempotencyKey>, Reply<Replayable<Product>>),
    /// Products.
    ListProducts(PageRequest<ProductId>, Reply<Vec<Product>>),
    /// Products of one category.
    ListProductsOf(CategoryId, PageRequest<ProductId>, Reply<Vec<Product>>),
    /// The order node sold pieces, or took them back.
    Move(Vec<Movement>, Reply<()>),
    /// The order node knows products up to this one: no other shall have one of these ids.
    Skip(ProductId, Reply<()>),
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
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Category>> {
        change(&mut self.session, key, async |tx| catalog::insert_category(tx, &new).await).await
    }

    async fn list_categories(
        &mut self,
        part: PageRequest<CategoryCursor>,
    ) -> Result<Vec<Category>> {
        catalog::list_categories(self.session.connection().await?, part).await
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
            let offer = Event::ProductCreated(Offer {
                id: product.id,
                name: product.name.clone(),
                price: product.price,
                quantity: new.quantity,
                category_id: product.category_id,
            });
            outbox::append(tx, &[OutboxEvent::new(offer, FIRST_VERSION)]).await?;
            Ok(product)
        })
        .await
    }

    async fn list_products(&mut self, part: PageRequest<ProductId>) -> Result<Vec<Product>> {
        catalog::list_products(self.session.connection().await?, part).await
    }

    async fn list_products_of(
        &mut self,
        id: CategoryId,
        part: PageRequest<ProductId>,
    ) -> Result<Vec<Product>> {
        catalog::list_products_of(self.session.connection().await?, id, part).await
    }

    async fn move_stock(&mut self, movements: Vec<Movement>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        stock::apply(&mut tx, &movements).await?;
        tx.commit().await
    }

    async fn skip(&mut self, newest: ProductId) -> Result<()> {
        let mut tx = self.session.begin().await?;
        catalog::skip(&mut tx, newest).await?;
        tx.commit().await
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
            Msg::ListCategories(part, reply) => respond(reply, self.list_categories(part).await),
            Msg::AddProduct(new, key, reply) => respond(reply, self.add_product(new, key).await),
            Msg::ListProducts(part, reply) => respond(reply, self.list_products(part).await),
            Msg::ListProductsOf(id, part, reply) => {
                respond(reply, self.list_products_of(id, part).await)
            }
            Msg::Move(movements, reply) => respond(reply, self.move_stock(movements).await),
            Msg::Skip(newest, reply) => respond(reply, self.skip(newest).await),
        }
    }
}
