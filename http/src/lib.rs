//! The HTTP API of the nodes: routes, bodies, authentication, error responses, OpenAPI documents and
//! the inspector. The only crate that uses axum.

mod actor_stream;
mod actors;
mod admin_page;
mod audit;
mod auth;
mod body;
mod catalog;
mod client;
mod cluster;
mod context;
mod dead_letters;
mod docs;
mod health;
mod idempotency;
mod keys;
mod middleware;
mod orders;
mod pages;
mod peers;
mod problem;
mod response_cache;
mod resync;
mod server;
mod snapshot;
mod users;
mod verification;

pub use auth::Authenticator;
pub use catalog::Catalog;
pub use cluster::Cluster;
pub use context::{Idempotency, Limits};
pub use health::Health;
pub use keys::{Algorithm, Keys, UserTokenKey};
pub use pages::Page;
pub use peers::Peers;
pub use response_cache::ResponseCache;
pub use resync::{ReplicatedTables, Resync};
pub use server::{HttpServer, Shutdown};
pub use snapshot::SnapshotApi;
pub use users::Auth;
pub use verification::RemoteVerifier;

use shop_runtime::Addr;

/// The API of a node, with what its routes use.
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
    fn routes(self) -> auth::Routes {
        match self {
            Api::Auth(auth) => users::routes(auth),
            Api::Catalog(catalog) => catalog::routes(catalog),
            Api::Order(orders) => orders::routes(orders),
        }
    }
}
