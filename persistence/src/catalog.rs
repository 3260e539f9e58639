//! The catalog: categories, and the products in them.

use std::fmt::{self, Display};
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

pub use crate::ids::{CategoryId, ProductId};
use crate::pages::PageRequest;
use crate::{Error, InvalidValue, Result, sequences};

/// A category of products.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Category {
    /// Identifies the category.
    #[schema(example = 2)]
    pub id: CategoryId,
    /// Its name.
    #[schema(example = "Teapots")]
    pub name: String,
    /// The parent category; none for a root.
    #[schema(example = 1)]
    pub parent_id: Option<CategoryId>,
    /// The depth: 0 for a root.
    #[schema(example = 1)]
    pub level: i32,
}

/// A product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Product {
    /// Identifies the product.
    #[schema(example = 7)]
    pub id: ProductId,
    /// Its name.
    #[schema(example = "Blue teapot")]
    pub name: String,
    /// The price of one, in the smallest unit of the shop's currency.
    #[schema(example = 1990)]
    pub price: i64,
    /// The number of pieces left.
    #[schema(example = 37)]
    pub storage_quantity: i64,
    /// The category it belongs to.
    #[schema(example = 2)]
    pub category_id: CategoryId,
}

/// A product as the catalog announces it, with all that was ever stocked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offer {
    /// The product.
    pub id: ProductId,
    /// Its name.
    pub name: String,
    /// The price of one, in the smallest unit of the shop's currency.
    pub price: i64,
    /// The number of pieces that were ever stocked.
    pub quantity: i64,
    /// The category it belongs to.
    pub category_id: CategoryId,
}

/// A name of 1 to 200 characters, trimmed, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Parses a name.
    pub fn parse(text: String) -> Result<Name, InvalidValue> {
        let name = text.trim();
        if !(1..=200).contains(&name.chars().count()) {
            return Err(InvalidValue(
                "must be 1 to 200 characters long, not counting spaces around it".into(),
            ));
        }
        if name.chars().any(char::is_control) {
            return Err(InvalidValue("must not contain control characters".into()));
        }
        Ok(Name(name.to_owned()))
    }
}

/// A price: 0 to 10^12 of the smallest unit of the shop's currency.
pub fn price(value: i64) -> Result<i64, InvalidValue> {
    InvalidValue::unless_within(value, 0..=1_000_000_000_000)
}

/// A quantity in stock: 0 to 10^9.
pub fn quantity(value: i64) -> Result<i64, InvalidValue> {
    InvalidValue::unless_within(value, 0..=1_000_000_000)
}

/// A category to add.
#[derive(Debug, Clone)]
pub struct NewCategory {
    /// Its name.
    pub name: Name,
    /// The parent category; none for a root.
    pub parent_id: Option<CategoryId>,
}

const INSERT_CATEGORY: &str = "
    insert into categories (name, parent_id, level)
    select $1, $2, coalesce((select level + 1 from categories where id = $2), 0)
    returning id, name, parent_id, level";

/// Adds a category, one level below its parent.
pub async fn insert_category(tx: &mut PgConnection, new: &NewCategory) -> Result<Category> {
    let inserted =
        sqlx::query_as(INSERT_CATEGORY).bind(&new.name.0).bind(new.parent_id).fetch_one(tx);
    inserted.await.map_err(|error| {
        Error::on_constraint(error, |constraint| {
            (constraint == "categories_parent_id_fkey").then(|| {
                Error::invalid_field(
                    "parent_id",
                    "must be the id of a category that exists, or null",
                )
            })
        })
    })
}

/// The position of a category in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CategoryCursor {
    level: i32,
    id: CategoryId,
}

impl Category {
    /// Its position in the list.
    pub fn place(&self) -> CategoryCursor {
        CategoryCursor { level: self.level, id: self.id }
    }
}

impl Display for CategoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.level, self.id)
    }
}

impl FromStr for CategoryCursor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<CategoryCursor, ParseIntError> {
        let (level, id) = text.split_once('~').unwrap_or((text, ""));
        Ok(CategoryCursor { level: level.parse()?, id: id.parse()? })
    }
}

const LIST_CATEGORIES: &str = "
    select id, name, parent_id, level from categories
    where (level, id) > ($1, $2) order by level, id limit $3";

/// Categories: parents before their children.
pub async fn list_categories(
    connection: &mut PgConnection,
    page: PageRequest<CategoryCursor>,
) -> Result<Vec<Category>> {
    let CategoryCursor { level, id } = page.after.unwrap_or(CategoryCursor { level: -1, id: 0 });
    let list = sqlx::query_as(LIST_CATEGORIES).bind(level).bind(id).bind(page.limit);
    Ok(list.fetch_all(connection).await?)
}

/// A product to add.
#[derive(Debug, Clone)]
pub struct NewProduct {
    /// Its name.
    pub name: Name,
    /// The price of one, in the smallest unit of the shop's currency.
    pub price: i64,
    /// The initial stock, in pieces.
    pub quantity: i64,
    /// The category it belongs to.
    pub category_id: CategoryId,
}

/// The version of a new product.
pub const FIRST_VERSION: i64 = 1;

const INSERT_PRODUCT: &str = "
    insert into products (name, price, storage_quantity, category_id) values ($1, $2, 0, $3)
    returning id, name, price, storage_quantity, category_id";

/// Adds a product without stock; its stock is added by a movement.
pub async fn insert_product(tx: &mut PgConnection, new: &NewProduct) -> Result<Product> {
    let inserted = sqlx::query_as(INSERT_PRODUCT)
        .bind(&new.name.0)
        .bind(new.price)
        .bind(new.category_id)
        .fetch_one(tx);
    inserted.await.map_err(|error| {
        Error::on_constraint(error, |constraint| {
            (constraint == "products_category_id_fkey").then(|| {
                Error::invalid_field("category_id", "must be the id of a category that exists")
            })
        })
    })
}

/// Reserves the ids up to this one: the order node has products with these ids.
pub async fn skip(tx: &mut PgConnection, newest: ProductId) -> Result<()> {
    sequences::skip(tx, "products_id_seq", newest).await
}

const LIST_PRODUCTS: &str = "
    select id, name, price, storage_quantity, category_id from products
    where id > $1 order by id limit $2";

/// Products in ascending ids.
pub async fn list_products(
    connection: &mut PgConnection,
    page: PageRequest<ProductId>,
) -> Result<Vec<Product>> {
    let list = sqlx::query_as(LIST_PRODUCTS).bind(page.after.unwrap_or(ProductId::MIN));
    Ok(list.bind(page.limit).fetch_all(connection).await?)
}

const CATEGORY_EXISTS: &str = "select exists (select from categories where id = $1)";

const LIST_PRODUCTS_OF: &str = "
    select id, name, price, storage_quantity, category_id from products
    where category_id = $1 and id > $2 order by id limit $3";

/// The products of one category, without those of its subcategories, in ascending ids.
pub async fn list_products_of(
    connection: &mut PgConnection,
    category: CategoryId,
    page: PageRequest<ProductId>,
) -> Result<Vec<Product>> {
    let products: Vec<Product> = sqlx::query_as(LIST_PRODUCTS_OF)
        .bind(category)
        .bind(page.after.unwrap_or(ProductId::MIN))
        .bind(page.limit)
        .fetch_all(&mut *connection)
        .await?;
    if products.is_empty()
        && !sqlx::query_scalar::<_, bool>(CATEGORY_EXISTS)
            .bind(category)
            .fetch_one(connection)
            .await?
    {
        return Err(Error::NotFound("category"));
    }
    Ok(products)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_trimmed_and_has_1_to_200_characters() {
        assert_eq!(Name::parse("  Чайник синий ".into()), Ok(Name("Чайник синий".into())));
        for bad in ["", "   ", &"x".repeat(201), "a\nb", "a\0b"] {
            assert!(Name::parse(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn price_and_quantity_have_bounds() {
        assert!(price(0).is_ok() && price(1_000_000_000_000).is_ok());
        assert!(price(-1).is_err() && price(1_000_000_000_001).is_err());
        assert!(quantity(0).is_ok() && quantity(1_000_000_000).is_ok());
        assert!(quantity(-1).is_err() && quantity(1_000_000_001).is_err());
    }
}
