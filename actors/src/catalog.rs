//! The owner of the catalog: categories, products, and the stock that came and went.

use shop_persistence::catalog::{
    self, Category, CategoryId, FIRST_VERSION, NewCategory, NewProduct, Product,
};
use shop_persistence::outbox::{self, Entry};
use shop_persistence::stock::{self, Movement, Offer};
use shop_persistence::{Database, Event, Result, Session};

use crate::{Handled, Me, Owner, Reply, answer};

/// What the owner of the catalog may be asked.
#[derive(Debug)]
pub enum Msg {
    /// An administrator adds a category.
    AddCategory(NewCategory, Reply<Category>),
    /// All categories, each parent before its children.
    ListCategories(Reply<Vec<Category>>),
    /// An administrator adds a product and stocks it.
    AddProduct(NewProduct, Reply<Product>),
    /// All products.
    ListProducts(Reply<Vec<Product>>),
    /// The products of one category.
    ListProductsOf(CategoryId, Reply<Vec<Product>>),
    /// The order node sold pieces, or took them back.
    Move(Vec<Movement>, Reply<()>),
}

/// Owns the catalog.
#[derive(Debug)]
pub struct Catalog {
    session: Session,
}

impl Catalog {
    /// An owner of the catalog in this database.
    pub fn new(database: &Database) -> Catalog {
        Catalog { session: database.session() }
    }

    async fn add_category(&mut self, new: NewCategory) -> Result<Category> {
        let mut tx = self.session.begin().await?;
        let category = catalog::insert_category(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(category)
    }

    async fn list_categories(&mut self) -> Result<Vec<Category>> {
        catalog::list_categories(self.session.connection().await?).await
    }

    async fn add_product(&mut self, new: NewProduct) -> Result<Product> {
        let mut tx = self.session.begin().await?;
        let product = catalog::insert_product(&mut tx, &new).await?;
        stock::apply(&mut tx, &[Movement::stocked(product.id, FIRST_VERSION, new.quantity)])
            .await?;
        let product = Product { storage_quantity: new.quantity, ..product };
        let offer = Event::ProductCreated(Offer {
            id: product.id,
            name: product.name.clone(),
            price: product.price,
            quantity: new.quantity,
            category_id: product.category_id,
        });
        outbox::append(&mut tx, &[Entry::new(offer, FIRST_VERSION)]).await?;
        tx.commit().await?;
        Ok(product)
    }

    async fn list_products(&mut self) -> Result<Vec<Product>> {
        catalog::list_products(self.session.connection().await?).await
    }

    async fn list_products_of(&mut self, id: CategoryId) -> Result<Vec<Product>> {
        catalog::list_products_of(self.session.connection().await?, id).await
    }

    async fn move_stock(&mut self, movements: Vec<Movement>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        stock::apply(&mut tx, &movements).await?;
        tx.commit().await
    }
}

impl Owner for Catalog {
    type Msg = Msg;

    async fn handle(&mut self, _: &Me<Msg>, message: Msg) -> Handled {
        match message {
            Msg::AddCategory(new, reply) => answer(reply, self.add_category(new).await),
            Msg::ListCategories(reply) => answer(reply, self.list_categories().await),
            Msg::AddProduct(new, reply) => answer(reply, self.add_product(new).await),
            Msg::ListProducts(reply) => answer(reply, self.list_products().await),
            Msg::ListProductsOf(id, reply) => answer(reply, self.list_products_of(id).await),
            Msg::Move(movements, reply) => answer(reply, self.move_stock(movements).await),
        }
    }
}
