//! Which node am I, and what runs on it: configuration, trees, restarts, embedded services, signals.

pub mod admin;
pub mod config;
pub mod dead_letters;
pub mod embedded;
pub mod log;
pub mod resync;
mod shop;
pub mod telemetry;
mod tree;
pub mod verify;

pub use config::Config;
pub use shop::{Node, Shop};
