//! The process: configuration, nodes, commands, the embedded PostgreSQL, logging and telemetry.

pub mod commands;
pub mod config;
pub mod embedded;
pub mod log;
mod nodes;
mod shop;
pub mod telemetry;

pub use config::Config;
pub use nodes::Node;
pub use shop::Shop;
