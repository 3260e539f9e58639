//! The edge of a node: routes, bodies, tokens, status codes, and the API's documentation. The only crate that knows axum.

mod actors;
mod asking;
mod audit;
mod body;
mod books;
mod callers;
mod catalog;
mod cluster;
mod dead_letters;
mod docs;
mod edge;
mod idempotency;
mod lists;
mod operations;
mod orders;
mod page;
mod pages;
mod peers;
mod problem;
mod resync;
mod tokens;
mod users;

pub use books::Books;
pub use callers::{Gate, Remote};
pub use catalog::Catalog;
pub use cluster::Cluster;
pub use edge::{Doors, Edge, Limits};
pub use idempotency::Keys;
pub use lists::Lists;
pub use operations::Vitals;
pub use pages::Page;
pub use peers::Peers;
pub use resync::{Copies, Resync};
pub use tokens::{Algorithm, Tokens};
pub use users::Auth;

use shop_actors::Addr;
use utoipa_axum::router::OpenApiRouter;

/// What a node's clients may call, and whom it asks.
#[derive(Clone, Debug)]
pub enum Api {
    /// The auth node's.
    Auth(Auth),
    /// The catalog node's.
    Catalog(Catalog),
    /// The order node's.
    Order(Addr<shop_actors::orders::Msg>),
}

impl Api {
    fn routes(self) -> OpenApiRouter {
        match self {
            Api::Auth(auth) => users::routes(auth),
            Api::Catalog(catalog) => catalog::routes(catalog),
            Api::Order(orders) => orders::routes(orders),
        }
    }
}
