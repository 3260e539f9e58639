//! Two replicas of every node, on the same databases and the same broker.

use futures::future::join_all;
use serde_json::json;
use shop_supervisor::Node;

use crate::shop::{Over, Settings, TestShop, eventually, same};

#[tokio::test]
async fn two_replicas_of_every_node_are_one_shop() {
    let settings = Settings::new(Over::RabbitMq).await;
    let shops = [TestShop::with(settings.clone()).await, TestShop::with(settings.clone()).await];
    let admin = shops[0].admin().await;
    let teapot = admin.product(1990, 38).await;

    // Whoever signed up on one is known on the other, with the same token.
    let anna = shops[1].user("anna").await;
    let annas = shops.each_ref().map(|shop| anna.at(shop));
    let items = [(&teapot, 1)];
    // The first waits for the news of the teapot, and of her.
    eventually(async || same(annas[0].order(&items).await.status.as_u16(), 201)).await;
    let tried = join_all((0..200).map(|n| annas[n % 2].order(&items))).await;
    let placed: Vec<_> = tried.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(placed.len(), 37);
    assert!(tried.iter().all(|answer| [201, 409].contains(&answer.status.as_u16())));
    for (index, answer) in placed.iter().enumerate() {
        let path = format!("/order/{}", answer.json()["id"]);
        annas[index % 2].get(Node::Order, &path).await.expect(200);
    }
    for shop in &shops {
        let admin = admin.at(shop);
        eventually(|| async { same(admin.left(&teapot).await, 0) }).await;
    }
    // What was remembered of her token on the replica that did not hear the news is forgotten in time.
    let role = json!({"role": "ADMIN"});
    admin.put(Node::Auth, &format!("/api/v1/users/{}/role", anna.id()), role).await.expect(200);
    for anna in &annas {
        eventually(|| async {
            let added = anna.post(Node::Catalog, "/api/v1/category", json!({"name": "hers"})).await;
            same(added.status.as_u16(), 201)
        })
        .await;
    }
    for shop in shops {
        shop.close().await;
    }
}
