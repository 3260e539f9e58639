//! Events and tokens while the broker or the auth node is unavailable, and late commits.

use serde_json::json;
use shop_supervisor::Node;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{BrokerKind, Settings, TestShop, equal, eventually};

use super::{buyer, order_for};

#[tokio::test]
async fn the_shop_starts_without_its_broker_and_publishes_when_it_returns() {
    let mut broker = RabbitMq::start().await.unwrap();
    let mut settings = Settings::new(BrokerKind::RabbitMq).await;
    settings.set("SHOP__RABBITMQ__PORT", &broker.port().to_string());
    // The queues exist before RabbitMQ is killed: version 3.10 does not recover from `kill -9`
    // within seconds of their first declaration.
    let publisher = settings.foreign_broker(broker.port()).publisher().await.unwrap();
    publisher.close().await;
    broker.stop().await.unwrap();
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 10).await;
    for node in Node::ALL {
        let detail = admin.get(node, "/health/ready").await.expect(503)["detail"].clone();
        assert_eq!(detail, "unavailable: broker");
        admin.get(node, "/health/live").await.expect(200);
    }
    broker.start_again().await.unwrap();
    for node in Node::ALL {
        eventually(|| async { equal(admin.get(node, "/health/ready").await.status.as_u16(), 200) })
            .await;
    }
    eventually(async || equal(admin.order(&[(&teapot, 1)]).await.status.as_u16(), 201)).await;
    broker.kill().await.unwrap();
    // The order node accepts orders with its own data.
    for _ in 0..5 {
        admin.order(&[(&teapot, 1)]).await.expect(201);
    }
    broker.start_again().await.unwrap();
    eventually(|| async { equal(admin.stock(&teapot).await, 4) }).await;
    shop.close().await;
}

#[tokio::test]
async fn an_event_committed_after_later_ones_is_published() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(5, 1_000).await;
    let order = anna.order(&[(&teapot, 1)]).await.expect(201);
    // This event has an earlier id in the outbox and is committed after later ones.
    let mut late = shop.settings.database(Node::Auth).await;
    let begin = format!(
        "begin; update users set username = 'hannah', username_key = 'hannah', version = version + 1
                where id = '{id}';
         insert into outbox (message_id, event, version, body)
         select gen_random_uuid(), 'user_updated', version,
                json_build_object('id', id, 'username', username, 'email', email, 'role', role)
         from users where id = '{id}'",
        id = anna.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut late).await.unwrap();
    for name in ["boris", "clara", "dmitri", "emil"] {
        let user = shop.user(name).await;
        order_for(&admin, user.id(), teapot.id, 1).await.expect(201);
    }
    assert_eq!(buyer(&admin, &order).await["username"], "anna");
    sqlx::raw_sql("commit").execute(&mut late).await.unwrap();
    eventually(|| async {
        equal(buyer(&admin, &order).await["username"].clone(), json!("hannah"))
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn a_valid_token_works_while_the_auth_node_is_unavailable() {
    let settings = Settings::new(BrokerKind::Bus).await;
    let shop = TestShop::start_with(settings.clone()).await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(5, 10).await;
    anna.order(&[(&teapot, 1)]).await.expect(201); // waits for the event of the user
    shop.close().await;
    let mut settings = settings;
    settings.set("SHOP__CATALOG__AUTH_URL", "http://127.0.0.1:9"); // no server listens there
    settings.set("SHOP__ORDER__AUTH_URL", "http://127.0.0.1:9");
    let shop = TestShop::start_with(settings).await;
    let anna = shop.anonymous().with_token(anna.token.as_deref().unwrap());
    anna.get(Node::Catalog, "/api/v1/products").await.expect(200);
    anna.post(Node::Catalog, "/api/v1/category", json!({"name": "x"})).await.expect(403);
    shop.anonymous().get(Node::Catalog, "/api/v1/products").await.expect(401);
    shop.close().await;
}
