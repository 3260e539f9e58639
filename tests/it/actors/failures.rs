//! Which failures restart actors and branches, and which do not.

use std::time::{Duration, Instant};

use shop_supervisor::Node;
use shop_tests::postgres::PostgresServer;
use shop_tests::{BrokerKind, Client, Settings, TestShop, equal, eventually, free_port};

use super::{break_orders, find, list, repair_orders, until_order_succeeds, until_restarted};

#[tokio::test]
async fn ten_failures_within_the_window_restart_the_branch() {
    let mut settings = Settings::single_replica(BrokerKind::Bus).await;
    settings.set("SHOP__SUPERVISION__RESTART_BACKOFF_MIN_MS", "1");
    settings.set("SHOP__SUPERVISION__RESTART_BACKOFF_MAX_MS", "10");
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    break_orders(&shop).await;
    for restarts in 1..10 {
        admin.order(&[(&teapot, 1)]).await.expect(503);
        let restarted = eventually(async || {
            let actors = list(&admin, Node::Order).await;
            let restarted = actors.into_iter().find(|actor| actor.restarts == restarts);
            restarted.ok_or("it has not restarted".to_owned())
        });
        let failure = restarted.await.last_failure.unwrap();
        assert!(failure.reason.contains("a test failure"), "{failure:?}");
        assert_eq!(failure.trace_id.map(|id| id.len()), Some(32));
    }
    assert_eq!(find(&admin, Node::Order, "shop/order").await.restarts, 0);
    // The tenth failure escalates to the node's supervisor, which restarts with all its children.
    admin.order(&[(&teapot, 1)]).await;
    let branch = until_restarted(&admin, Node::Order, "shop/order").await;
    let failure = branch.last_failure.unwrap();
    assert!(failure.reason.contains("failed 10 times"), "{failure:?}");
    repair_orders(&shop).await;
    until_order_succeeds(&admin, &teapot).await;
    shop.close().await;
}

/// The duration of the outage: 4 s, or `SHOP_TESTS_OUTAGE_SECONDS`.
fn outage() -> Duration {
    let seconds = std::env::var("SHOP_TESTS_OUTAGE_SECONDS").unwrap_or("4".into());
    Duration::from_secs(seconds.parse().expect("SHOP_TESTS_OUTAGE_SECONDS is a number"))
}

async fn assert_no_restart(admin: &Client, node: Node) {
    let actors = list(admin, node).await;
    let restarted: Vec<_> = actors.iter().filter(|actor| actor.restarts != 0).collect();
    assert!(restarted.is_empty(), "{restarted:?}");
}

#[tokio::test]
async fn an_unavailable_database_restarts_no_actor() {
    let mut server = PostgresServer::durable().await.expect("a PostgreSQL of its own");
    let mut settings = Settings::single_replica(BrokerKind::Bus).await;
    for node in Node::ALL {
        settings.set_of(node, "DATABASE__PORT", &server.server().port().to_string());
    }
    let shop = TestShop::start_with(settings).await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(5, 1000).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    list(&admin, Node::Order).await; // the administrator's session is cached from now on
    server.kill().await.unwrap();
    // The backends continue until they notice that the postmaster has ended.
    let body = anna.order_body(&[(&teapot, 1)]);
    let order = async || anna.post(Node::Order, "/order", body.clone()).await.status.as_u16();
    eventually(async || equal(order().await, 503)).await;
    let end = Instant::now() + outage();
    while Instant::now() < end {
        assert_eq!(order().await, 503);
        // The inspector needs no database.
        assert_no_restart(&admin, Node::Order).await;
    }
    server.start_again().await.unwrap();
    until_order_succeeds(&anna, &teapot).await;
    for node in Node::ALL {
        assert_no_restart(&admin, node).await;
    }
    shop.close().await;
}

#[tokio::test]
async fn only_the_connection_actor_retries_while_the_broker_is_unavailable() {
    let mut settings = Settings::single_replica(BrokerKind::RabbitMq).await;
    settings.set("SHOP__RABBITMQ__PORT", &free_port().to_string());
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    eventually(async || {
        let connection = find(&admin, Node::Order, "shop/order/broker/connection").await;
        let attempts = connection.messages.get("Open").copied();
        if attempts > Some(3) { Ok(()) } else { Err(format!("{attempts:?} attempts")) }
    })
    .await;
    assert_no_restart(&admin, Node::Order).await;
    for actor in list(&admin, Node::Order).await {
        if actor.path.contains("/broker/") && !actor.path.ends_with("/connection") {
            assert_eq!((actor.status.as_str(), actor.handled), ("running", 0), "{actor:?}");
        }
    }
    // Committed events wait in the outbox and do not delay the shutdown.
    assert!(!shop.stop().await);
}
