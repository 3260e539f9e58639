//! The edge of a node: routes, bodies, tokens, status codes, and the API's documentation. The only crate that knows axum.

mod body;
mod callers;
mod catalog;
mod docs;
mod edge;
mod operations;
mod orders;
mod problem;
mod tokens;
mod users;

pub use callers::{Gate, Remote};
pub use edge::{Doors, Edge, Limits};
pub use operations::Vitals;
pub use tokens::{Algorithm, Tokens};
pub use users::Auth;

use axum::Router;
use shop_actors::Addr;
use utoipa_axum::router::OpenApiRouter;

/// What a node's clients may call, and whom it asks.
#[derive(Clone, Debug)]
pub enum Api {
    /// The auth node's.
    Auth(Auth),
    /// The catalog node's.
    Catalog(Addr<shop_actors::catalog::Msg>),
    /// The order node's.
    Order(Addr<shop_actors::orders::Msg>),
}

impl Api {
    fn routes(self) -> (Router, utoipa::openapi::OpenApi) {
        let routes: OpenApiRouter = match self {
            Api::Auth(auth) => users::routes(auth),
            Api::Catalog(catalog) => catalog::routes(catalog),
            Api::Order(orders) => orders::routes(orders),
        };
        routes.split_for_parts()
    }
}
