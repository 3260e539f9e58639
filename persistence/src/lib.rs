//! The nouns of the shop: rows, events, queries, migrations, the outbox. The only crate that knows sqlx.
//!
//! A query takes a `&mut PgConnection`; who calls it begins and commits.

pub mod catalog;
pub mod customers;
mod database;
mod error;
pub mod events;
pub mod orders;
pub mod outbox;
pub mod stock;
mod trace;
pub mod users;

pub use database::{Cluster, Database, Schema, Session, Transaction};
pub use error::{BrokenRule, Error, Invalid, Result};
pub use events::Event;
pub use sqlx::PgConnection;
pub use trace::Trace;
