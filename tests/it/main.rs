//! The shop from outside: real HTTP, a real database, a real broker. Each test has a shop of its own, beside the others.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod shop;

mod brokers;
mod catalog;
mod events;
mod flow;
mod operations;
mod orders;
mod processes;
mod replicas;
mod users;
