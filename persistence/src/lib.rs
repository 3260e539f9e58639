//! The shop's databases: rows, queries, migrations, events and the outbox. The only crate that uses
//! sqlx.
//!
//! A query takes a `&mut PgConnection`; its caller begins and commits the transaction.

pub mod audit;
pub mod catalog;
pub mod customers;
mod database;
pub mod dead_letters;
mod error;
pub mod events;
pub mod idempotency;
mod ids;
pub mod ledger;
mod migrations;
mod movements;
pub mod orders;
pub mod outbox;
pub mod pages;
pub mod resyncs;
mod sequences;
pub mod snapshot;
pub mod stock;
pub mod users;
mod versions;

pub use database::{
    ChangeCounter, ChangeSubscription, Database, DatabaseServer, Session, Transaction,
};
pub use error::{Error, FieldError, InvalidValue, Result};
pub use migrations::Schema;
pub use sqlx::PgConnection;
