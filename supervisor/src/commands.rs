//! The commands of the program `shop`, one module each.

pub mod admin;
mod databases;
pub mod dead_letters;
pub mod resync;
pub mod run;
pub mod verify;
