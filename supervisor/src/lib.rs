//! Which node am I, and what runs on it: configuration, trees, restarts, embedded services, signals.

pub mod admin;
pub mod config;
pub mod embedded;
pub mod log;
mod shop;
mod supervisor;
mod tree;

pub use config::Config;
pub use shop::{Node, Shop};
