//! The shop from outside: real HTTP, a real database, a real broker. Each test has a shop of its own, beside the others.

mod shop;
mod users;

mod flow;
