//! The nouns of the shop: rows, events, queries, migrations, the outbox. The only crate that knows sqlx.
//!
//! A query takes a `&mut PgConnection`; who calls it begins and commits.

pub mod audit;
pub mod books;
pub mod catalog;
pub mod crash;
pub mod customers;
mod database;
mod date;
pub mod dead_letters;
mod error;
pub mod events;
pub mod idempotency;
pub mod ledger;
pub mod lists;
pub mod orders;
pub mod outbox;
pub mod resyncs;
mod sequences;
pub mod stock;
pub mod trace;
pub mod users;

pub use crash::At;
pub use database::{Cluster, Database, Schema, Session, Transaction};
pub use date::date;
pub use error::{BrokenRule, Error, Invalid, Result};
pub use events::Event;
pub use sqlx::PgConnection;
pub use trace::{Cause, Kind, Step, Trace};

/// What was done, in words, where there is nothing else to show.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Note {
    /// In words.
    #[schema(example = "the user is deleted")]
    pub message: &'static str,
}
