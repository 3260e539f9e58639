//! What the shop brings along when nothing is configured: a place for its data and a PostgreSQL of
//! its own.
//!
//! ```text
//! data/                 Home: the shop's own user
//! ├── jwt_secret        made up at the first start
//! ├── postgres/         the cluster and its socket: the user that PostgreSQL runs as
//! ├── postgres.lock     locked while a shop uses the cluster
//! └── postgres.log      PostgreSQL's last words; locked while any of its processes lives
//! ```

mod account;
mod binaries;
mod home;
mod leash;
mod postgres;

pub use home::Home;
pub use leash::Leash;
pub use postgres::{Options, Postgres};
