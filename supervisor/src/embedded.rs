//! What the shop needs when nothing is configured: a data directory and a private PostgreSQL.
//!
//! ```text
//! data/                 DataDirectory; owned by the user of the shop
//! ├── jwt_secret        generated at the first start
//! ├── postgres/         the cluster and its socket; owned by the user of PostgreSQL
//! ├── postgres.lock     locked while a shop uses the cluster
//! └── postgres.log      PostgreSQL's log; locked while any of its processes lives
//! ```

mod binaries;
mod child_guard;
mod data_directory;
mod postgres;
mod run_as;
mod service;

pub use child_guard::ChildGuard;
pub use data_directory::DataDirectory;
pub use postgres::{Options, Postgres};
pub(crate) use service::{EmbeddedPostgres, EmbeddedServer};
