//! The catalog node's API: categories and products.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deserr::Deserr;
use serde::Deserialize;
use shop_actors::catalog::Msg;
use shop_persistence::InvalidValue;
use shop_persistence::catalog::{
    self, Category, CategoryCursor, CategoryId, Name, NewCategory, NewProduct, Product, ProductId,
};
use shop_runtime::Addr;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Access, Routes};
use crate::body::{Json, Query, ValidationErrors};
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::pages::{ListQuery, Paging};
use crate::problem::{Problem, Result};
use crate::response_cache::{List, ResponseCache};

/// What the routes of the catalog node use.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The catalog actor.
    pub catalog: Addr<Msg>,
    /// Its lists.
    pub lists: ResponseCache,
}

/// The catalog node's routes.
pub fn routes(catalog: Catalog) -> Routes {
    let user = OpenApiRouter::new()
        .routes(routes!(list_categories))
        .routes(routes!(list_products))
        .routes(routes!(list_products_of_category));
    let admin = OpenApiRouter::new().routes(routes!(add_category)).routes(routes!(add_product));
    vec![
        (Access::User, user.with_state(catalog.clone())),
        (Access::Admin, admin.with_state(catalog)),
    ]
}

/// A category to add.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct AddCategory {
    /// 1 to 200 characters after trimming.
    #[deserr(try_from(String) = Name::parse -> InvalidValue)]
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Teapots")]
    name: Name,
    /// The parent category; absent, null or 0 for a root.
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
    State(Catalog { catalog, .. }): State<Catalog>,
    Idempotent(key, Json(AddCategory { name, parent_id })): Idempotent<Json<AddCategory>>,
) -> Result<IdempotentResponse<Category>> {
    let new = NewCategory { name, parent_id: parent_id.filter(|id| *id != 0) };
    let key = key.with_success(StatusCode::CREATED);
    let add = |reply| Msg::AddCategory(new, key, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, catalog.ask(Uuid::new_v4(), add).await?))
}

/// All categories, each parent before its children.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/api/v1/categories", tag = "catalog", params(Paging),
    responses((status = 200, body = Vec<Category>), (status = "default", response = Problem))
)]
async fn list_categories(
    State(Catalog { lists, .. }): State<Catalog>,
    query: ListQuery<CategoryCursor>,
) -> Result<Response> {
    let fetch = move |request| lists.clone().page(List::Categories(request));
    query.respond("/api/v1/categories", fetch).await
}

/// A product to add.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct AddProduct {
    /// 1 to 200 characters after trimming.
    #[deserr(try_from(String) = Name::parse -> InvalidValue)]
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Blue teapot")]
    name: Name,
    /// The price of one piece, in the smallest unit of the shop's currency.
    #[deserr(try_from(i64) = catalog::price -> InvalidValue)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, example = 1990)]
    price: i64,
    /// The initial stock.
    #[deserr(try_from(i64) = catalog::quantity -> InvalidValue)]
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 37)]
    quantity: i64,
    /// Its category.
    #[schema(example = 2)]
    category_id: CategoryId,
}

/// Adds a product and stocks it.
#[utoipa::path(
    post, path = "/api/v1/product", tag = "catalog", params(KeyHeader), request_body = AddProduct,
    responses((status = 201, body = Product), (status = "default", response = Problem))
)]
async fn add_product(
    State(Catalog { catalog, .. }): State<Catalog>,
    Idempotent(key, Json(new)): Idempotent<Json<AddProduct>>,
) -> Result<IdempotentResponse<Product>> {
    let AddProduct { name, price, quantity, category_id } = new;
    let new = NewProduct { name, price, quantity, category_id };
    let key = key.with_success(StatusCode::CREATED);
    let add = |reply| Msg::AddProduct(new, key, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, catalog.ask(Uuid::new_v4(), add).await?))
}

/// All products, by ascending id.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/api/v1/products", tag = "catalog", params(Paging),
    responses((status = 200, body = Vec<Product>), (status = "default", response = Problem))
)]
async fn list_products(
    State(Catalog { lists, .. }): State<Catalog>,
    query: ListQuery<ProductId>,
) -> Result<Response> {
    let fetch = move |request| lists.clone().page(List::Products(request));
    query.respond("/api/v1/products", fetch).await
}

/// A category.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhichCategory {
    /// Its id.
    id: CategoryId,
}

/// The products of one category, without those of its subcategories.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/api/v1/products_with_category", tag = "catalog", params(WhichCategory, Paging),
    responses((status = 200, body = Vec<Product>), (status = "default", response = Problem))
)]
async fn list_products_of_category(
    State(Catalog { lists, .. }): State<Catalog>,
    Query(WhichCategory { id }): Query<WhichCategory>,
    query: ListQuery<ProductId>,
) -> Result<Response> {
    let fetch = move |request| lists.clone().page(List::ProductsOf(id, request));
    query.respond(&format!("/api/v1/products_with_category?id={id}"), fetch).await
}
