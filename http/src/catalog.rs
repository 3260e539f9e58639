//! The catalog: categories and products.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use deserr::Deserr;
use serde::Deserialize;
use shop_actors::Addr;
use shop_actors::catalog::Msg;
use shop_persistence::Invalid;
use shop_persistence::catalog::{
    self, Category, CategoryId, Name, NewCategory, NewProduct, Product,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::body::{BrokenRules, Json, Query};
use crate::callers::{Admin, Signed};
use crate::idempotency::{Change, Changed, KeyHeader};
use crate::problem::{Problem, Result};

/// The catalog node's routes.
pub fn routes(catalog: Addr<Msg>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(add_category))
        .routes(routes!(list_categories))
        .routes(routes!(add_product))
        .routes(routes!(list_products))
        .routes(routes!(list_products_of))
        .with_state(catalog)
}

/// A category to add.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct AddCategory {
    /// 1 to 200 characters after trimming.
    #[deserr(try_from(String) = Name::parse -> Invalid)]
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Teapots")]
    name: Name,
    /// The category it shall lie in; absent, null or 0: a root.
    #[deserr(default)]
    #[schema(example = 0)]
    parent_id: Option<CategoryId>,
}

/// Adds a category.
#[utoipa::path(
    post, path = "/api/v1/category", tag = "catalog", params(KeyHeader), request_body = AddCategory,
    responses((status = 201, body = Category), (status = "default", response = Problem))
)]
async fn add_category(
    State(catalog): State<Addr<Msg>>,
    _: Admin,
    Change(named, Json(AddCategory { name, parent_id })): Change<Json<AddCategory>>,
) -> Result<Changed<Category>> {
    let new = NewCategory { name, parent_id: parent_id.filter(|id| *id != 0) };
    let once = named.once(StatusCode::CREATED);
    let add = |reply| Msg::AddCategory(new, once, reply);
    Ok(Changed(StatusCode::CREATED, catalog.ask(Uuid::new_v4(), add).await?))
}

/// All categories, each parent before its children.
#[utoipa::path(
    get, path = "/api/v1/categories", tag = "catalog",
    responses((status = 200, body = Vec<Category>), (status = "default", response = Problem))
)]
async fn list_categories(
    State(catalog): State<Addr<Msg>>,
    _: Signed,
) -> Result<Answer<Vec<Category>>> {
    Ok(Answer(catalog.ask(Uuid::new_v4(), Msg::ListCategories).await?))
}

/// A product to add.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct AddProduct {
    /// 1 to 200 characters after trimming.
    #[deserr(try_from(String) = Name::parse -> Invalid)]
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Blue teapot")]
    name: Name,
    /// The price of one, in the smallest unit of the shop's currency.
    #[deserr(try_from(i64) = catalog::price -> Invalid)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, example = 1990)]
    price: i64,
    /// How many there are.
    #[deserr(try_from(i64) = catalog::quantity -> Invalid)]
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 37)]
    quantity: i64,
    /// The category it belongs to.
    #[schema(example = 2)]
    category_id: CategoryId,
}

/// Adds a product and stocks it.
#[utoipa::path(
    post, path = "/api/v1/product", tag = "catalog", params(KeyHeader), request_body = AddProduct,
    responses((status = 201, body = Product), (status = "default", response = Problem))
)]
async fn add_product(
    State(catalog): State<Addr<Msg>>,
    _: Admin,
    Change(named, Json(new)): Change<Json<AddProduct>>,
) -> Result<Changed<Product>> {
    let AddProduct { name, price, quantity, category_id } = new;
    let new = NewProduct { name, price, quantity, category_id };
    let once = named.once(StatusCode::CREATED);
    let add = |reply| Msg::AddProduct(new, once, reply);
    Ok(Changed(StatusCode::CREATED, catalog.ask(Uuid::new_v4(), add).await?))
}

/// All products, in ascending order of their ids.
#[utoipa::path(
    get, path = "/api/v1/products", tag = "catalog",
    responses((status = 200, body = Vec<Product>), (status = "default", response = Problem))
)]
async fn list_products(
    State(catalog): State<Addr<Msg>>,
    _: Signed,
) -> Result<Answer<Vec<Product>>> {
    Ok(Answer(catalog.ask(Uuid::new_v4(), Msg::ListProducts).await?))
}

/// Which category.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhichCategory {
    /// Its id.
    id: CategoryId,
}

/// The products of one category, without those of the categories in it.
#[utoipa::path(
    get, path = "/api/v1/products_with_category", tag = "catalog", params(WhichCategory),
    responses((status = 200, body = Vec<Product>), (status = "default", response = Problem))
)]
async fn list_products_of(
    State(catalog): State<Addr<Msg>>,
    _: Signed,
    Query(WhichCategory { id }): Query<WhichCategory>,
) -> Result<Answer<Vec<Product>>> {
    Ok(Answer(catalog.ask(id, |reply| Msg::ListProductsOf(id, reply)).await?))
}
