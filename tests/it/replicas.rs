//! Two replicas of every node, on the same databases and the same broker.

use futures::future::join_all;
use serde_json::json;
use shop_supervisor::Node;

use shop_tests::api::Order;
use shop_tests::{BrokerKind, Settings, TestShop, equal, eventually};

#[tokio::test]
async fn two_replicas_of_every_node_act_as_one_shop() {
    let settings = Settings::new(BrokerKind::RabbitMq).await;
    let shops = [
        TestShop::start_with(settings.clone()).await,
        TestShop::start_with(settings.clone()).await,
    ];
    let admin = shops[0].admin().await;
    let teapot = admin.product(1990, 38).await;

    // A user who registered on one replica has the same token on the other.
    let anna = shops[1].user("anna").await;
    let clients = shops.each_ref().map(|shop| anna.at(shop.urls()));
    let items = [(&teapot, 1)];
    // The first order waits for the events of the product and of the customer.
    eventually(async || equal(clients[0].order(&items).await.status.as_u16(), 201)).await;
    let responses = join_all((0..200).map(|n| clients[n % 2].order(&items))).await;
    let placed: Vec<_> = responses.iter().filter(|response| response.status == 201).collect();
    assert_eq!(placed.len(), 37);
    assert!(responses.iter().all(|response| [201, 409].contains(&response.status.as_u16())));
    for (index, response) in placed.iter().enumerate() {
        let path = response.read::<Order>(201).path();
        clients[index % 2].get(Node::Order, &path).await.expect(200);
    }
    for shop in &shops {
        admin.at(shop.urls()).until_stock(&teapot, 0).await;
    }
    // The cached verification of the token expires on the replica that did not receive the event.
    let role = json!({"role": "ADMIN"});
    admin.put(Node::Auth, &format!("/api/v1/users/{}/role", anna.id()), role).await.expect(200);
    for client in &clients {
        eventually(|| async {
            let added =
                client.post(Node::Catalog, "/api/v1/category", json!({"name": "new"})).await;
            equal(added.status.as_u16(), 201)
        })
        .await;
    }
    for shop in shops {
        shop.close().await;
    }
}
