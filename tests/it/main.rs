//! The shop from outside: real HTTP, a real database, a real broker. Each test has a shop of its own, beside the others.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

/// Promises of a shop, each kept on the bus and over RabbitMQ alike.
macro_rules! on_both_brokers {
    ($($promise:ident)*) => {
        mod on_the_bus {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::TestShop::over(super::Over::Bus).await).await;
            })*
        }
        mod over_rabbitmq {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::TestShop::over(super::Over::RabbitMq).await).await;
            })*
        }
    };
}

mod shop;

mod actors;
mod brokers;
mod catalog;
mod convergence;
mod dead_letters;
mod documents;
mod event_schemas;
mod events;
mod flow;
mod grafana;
mod idempotency;
mod ledger;
mod lists;
mod openapi;
mod operations;
mod orders;
mod outage;
mod overload;
mod page;
mod processes;
mod replicas;
mod resync;
mod traces;
mod upgrade;
mod users;
