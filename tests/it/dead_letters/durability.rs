//! Dead letters during outages and crashes, and with replicas.

use std::collections::HashSet;

use futures::future::join_all;
use shop_supervisor::{Node, Shop};
use shop_tests::{BrokerKind, Settings, TestShop, equal, eventually};

use super::{dead_letters, oversell_product, path, redrive, return_three_pieces, sum};
use crate::events::{ExternalPublisher, message, order_for, product};

on_both_brokers! {
    no_message_is_dead_lettered_while_the_database_is_unavailable
}

async fn no_message_is_dead_lettered_while_the_database_is_unavailable(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    external.publish("product.created", 1, &product(1_000_002, 70, 4)).await;
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(201);
    let name = format!("{}order", shop.settings.prefix);
    let mut server = shop.settings.database(Node::Auth).await;
    let refuse = format!("alter database {name} allow_connections false");
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&mut server).await.unwrap();
    eventually(async || {
        let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
        let terminated = sqlx::query(terminate).bind(&name).execute(&mut server).await.unwrap();
        equal(terminated.rows_affected(), 0)
    })
    .await;
    let body = product(1_000_003, 70, 4).to_string();
    let event = message("product.created", Some(1), body.as_bytes());
    external.publisher.publish(1, event).await.unwrap();
    // It is attempted more often than a message that crashes its actor.
    let handled =
        async || sum(&shop, Node::Order, "shop_mailbox_handled_total", "shop/order/orders/").await;
    let before = handled().await;
    eventually(async || match handled().await - before {
        attempts if attempts > 5.0 => Ok(()),
        attempts => Err(format!("there were {attempts} attempts")),
    })
    .await;
    let accept = format!("alter database {name} allow_connections true");
    sqlx::raw_sql(sqlx::AssertSqlSafe(accept)).execute(&mut server).await.unwrap();
    external.publisher.confirmed().await.unwrap();
    let ordered = async || {
        let ordered = order_for(&admin, admin.id(), 1_000_003, 1).await;
        equal(ordered.status.as_u16(), 201)
    };
    eventually(ordered).await;
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    shop.close().await;
}

#[tokio::test]
async fn replicas_share_their_dead_letters() {
    let settings = Settings::new(BrokerKind::RabbitMq).await;
    let shops = [
        TestShop::start_with(settings.clone()).await,
        TestShop::start_with(settings.clone()).await,
    ];
    let admin = shops[0].admin().await;
    let admins = [admin.at(shops[0].urls()), admin.at(shops[1].urls())];
    let mut external = ExternalPublisher::connect(&shops[0]).await;
    let order = oversell_product(&admin, &mut external).await;
    let refused = dead_letters(&admin, Node::Order, 1).await.remove(0);
    for n in 0..20 {
        external.send("product.created", Some(1), n.to_string().as_bytes()).await;
    }
    let letters = dead_letters(&admin, Node::Order, 21).await;
    assert_eq!(dead_letters(&admins[1], Node::Order, 21).await, letters);
    return_three_pieces(&admin, &order).await;
    let redriven = join_all((0..10).map(|n| redrive(&admins[n % 2], &refused))).await;
    let statuses: HashSet<_> = redriven.iter().map(|response| response.status.as_u16()).collect();
    assert!(statuses.contains(&200) && statuses.is_subset(&[200, 404].into()), "{statuses:?}");
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(409);
    for letter in &letters[1..] {
        admins[1].delete(Node::Order, &path(letter)).await.expect(200);
    }
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    for shop in shops {
        shop.close().await;
    }
}

/// The shop has its own runtime, whose end is as abrupt as `kill -9`.
#[test]
fn a_crash_before_a_dead_letter_is_stored_loses_nothing() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap()
    };
    let (test, shops) = (runtime(), runtime());
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let settings = test.block_on(Settings::single_replica(BrokerKind::Bus));
    let shop = shops.block_on(Shop::start(&settings.config(), &Node::ALL)).unwrap();
    test.block_on(async {
        let order = shop.address(Node::Order).unwrap();
        // While the table is locked, no dead letter is stored.
        let mut lock = settings.database(Node::Order).await;
        sqlx::raw_sql("begin; lock table dead_letters").execute(&mut lock).await.unwrap();
        let mut catalog = settings.database(Node::Catalog).await;
        let broken = "insert into outbox (message_id, event, version, body)
                      values (gen_random_uuid(), 'product.created', 1, '{');
                      notify outbox";
        sqlx::raw_sql(broken).execute(&mut catalog).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        eventually(async || {
            let metrics = http.get(format!("http://{order}/metrics")).send().await.unwrap();
            let metrics = metrics.text().await.unwrap();
            let dead_lettered = metrics.lines().any(|line| {
                line.starts_with("shop_events_dead_lettered_total") && line.ends_with(" 1")
            });
            dead_lettered.then_some(()).ok_or("it is not dead-lettered".to_owned())
        })
        .await;
        let outbox = "select count(*) from outbox";
        let waiting: i64 = sqlx::query_scalar(outbox).fetch_one(&mut catalog).await.unwrap();
        assert_eq!(waiting, 1, "the outbox has the only durable copy");
        shops.shutdown_background();
        drop(shop);
        sqlx::raw_sql("rollback").execute(&mut lock).await.unwrap();

        let shop = TestShop::start_with(settings).await;
        let admin = shop.admin().await;
        let letters = dead_letters(&admin, Node::Order, 1).await;
        assert_eq!(letters[0]["payload"], "{");
        eventually(async || {
            let waiting: i64 = sqlx::query_scalar(outbox).fetch_one(&mut catalog).await.unwrap();
            equal(waiting, 0)
        })
        .await;
        shop.close().await;
    });
}
