//! The shop from outside: real HTTP, a real database, a real broker. Each test has a shop of its own, beside the others.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

/// Runs each test on a shop with the in-process bus and on a shop with RabbitMQ.
macro_rules! on_both_brokers {
    ($($test:ident)*) => {
        mod on_the_bus {
            use shop_tests::{BrokerKind, TestShop};
            $(#[tokio::test]
            async fn $test() {
                super::$test(TestShop::start_on(BrokerKind::Bus).await).await;
            })*
        }
        mod on_rabbitmq {
            use shop_tests::{BrokerKind, TestShop};
            $(#[tokio::test]
            async fn $test() {
                super::$test(TestShop::start_on(BrokerKind::RabbitMq).await).await;
            })*
        }
    };
}

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
