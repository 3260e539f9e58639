//! Dead letters: listed, redriven and dropped by administrators, on both brokers.

mod durability;
mod isolation;
mod redrive;

use reqwest::Method;
use serde_json::{Value, json};
use shop_messaging::Message;
use shop_supervisor::Node;
use shop_tests::{Client, Response, TestShop, equal, eventually};

use crate::events::{ExternalPublisher, message, order_for, product};

on_both_brokers! {
    a_dead_letter_shows_its_message_metadata_and_reason
    only_an_administrator_sees_dead_letters
    a_dropped_dead_letter_is_deleted
    dead_letters_are_listed_in_pages
}

/// Makes the event of product 1000007 crash the actor that applies it.
pub const CRASHING: &str = "
    create function crash() returns trigger language plpgsql as
        $$begin raise exception 'a bug'; end$$;
    create trigger crash before insert or update on products for each row
        when (new.id = 1000007) execute function crash()";

/// Waits until a node has this number of dead letters, and returns them.
pub async fn dead_letters(admin: &Client, node: Node, count: usize) -> Vec<Value> {
    eventually(async || {
        let letters = admin.get(node, "/admin/dead-letters").await.expect(200);
        let letters = letters.as_array().unwrap().clone();
        equal(letters.len(), count).map(|_| letters)
    })
    .await
}

fn path(letter: &Value) -> String {
    format!("/admin/dead-letters/{}", letter["id"].as_str().unwrap())
}

async fn redrive(admin: &Client, letter: &Value) -> Response {
    let path = format!("{}/redrive", path(letter));
    admin.send(Method::POST, Node::Order, &path, None).await
}

/// The metric of dead letters of a queue; `None` if it is absent.
async fn gauge(shop: &TestShop, node: Node, queue: &str) -> Option<f64> {
    let metrics = shop.anonymous().get(node, "/metrics").await.text;
    let label = format!("queue=\"{queue}\"");
    let mut lines = metrics.lines().filter(|line| line.starts_with("shop_dead_letters{"));
    lines.find(|line| line.contains(&label))?.rsplit_once(' ')?.1.parse().ok()
}

/// The sum of a node's metric over all label sets that contain this text.
async fn sum(shop: &TestShop, node: Node, name: &str, text: &str) -> f64 {
    let metrics = shop.anonymous().get(node, "/metrics").await.text;
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(text));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Product 1000001: 4 of 5 pieces are sold, then an event says that 2 were stocked. Returns the
/// order.
async fn oversell_product(admin: &Client, external: &mut ExternalPublisher) -> Value {
    external.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    let order = order_for(admin, admin.id(), 1_000_001, 4).await.expect(201);
    external.publish("product.created", 2, &product(1_000_001, 70, 2)).await;
    order
}

/// Removes the cause: the order returns three pieces.
async fn return_three_pieces(admin: &Client, order: &Value) {
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 1});
    admin.put(Node::Order, &format!("/update_order/{}", order["id"]), item).await.expect(200);
}

async fn a_dead_letter_shows_its_message_metadata_and_reason(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    for (node, queue) in [(Node::Catalog, "stock.moved"), (Node::Order, "product.created")] {
        eventually(async || equal(gauge(&shop, node, queue).await, Some(0.0))).await;
    }
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let invalid = Message {
        traceparent: Some(traceparent.to_owned()),
        timestamp: Some(1_790_000_000),
        ..message("product.created", Some(7), "{\"имя\":\u{0}".as_bytes())
    };
    let id = invalid.id.clone();
    external.post(invalid.clone()).await;
    external.post(Message { id: None, body: b"\xff\xfe".into(), ..invalid }).await;
    // The next message is applied.
    external.publish("product.created", 1, &product(1_000_002, 70, 4)).await;
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(201);

    let letters = dead_letters(&admin, Node::Order, 2).await;
    let letter = &letters[0];
    assert_eq!(letter["queue"], "product.created");
    assert_eq!(letter["event"], "product.created");
    assert_eq!(letter["message_id"], json!(id));
    assert_eq!((&letter["version"], &letter["tries"]), (&json!(7), &json!(1)));
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.starts_with("the body cannot be read"), "{reason}");
    assert_eq!(letter["payload"], "{\"имя\":\u{0}");
    assert!(letter.get("payload_base64").is_none(), "{letter}");
    assert_eq!(letter["headers"]["version"], 7);
    assert_eq!(letter["headers"]["traceparent"], traceparent);
    assert_eq!(letter["properties"]["message_id"], json!(id));
    assert_eq!(letter["properties"]["type"], "product.created");
    assert_eq!(letter["properties"]["timestamp"], "2026-09-21T14:13:20Z");
    let failed_at = letter["first_failed_at"].as_str().unwrap();
    let mut database = shop.settings.database(Node::Order).await;
    let recent = "select $1::text::timestamptz between now() - interval '1 minute' and now()";
    let recent: bool =
        sqlx::query_scalar(recent).bind(failed_at).fetch_one(&mut database).await.unwrap();
    assert!(recent && failed_at.ends_with('Z'), "{failed_at}");
    assert_eq!(&admin.get(Node::Order, &path(letter)).await.expect(200), letter);
    let other = &letters[1];
    assert_eq!((&other["payload"], &other["message_id"]), (&Value::Null, &Value::Null));
    assert_eq!(other["payload_base64"], "//4=");

    // Other nodes do not have it.
    for node in [Node::Auth, Node::Catalog] {
        assert_eq!(admin.get(node, "/admin/dead-letters").await.expect(200), json!([]));
        admin.get(node, &path(letter)).await.expect(404);
    }
    eventually(async || equal(gauge(&shop, Node::Order, "product.created").await, Some(2.0))).await;
    eventually(async || equal(gauge(&shop, Node::Order, "order.users").await, Some(0.0))).await;
    eventually(async || equal(gauge(&shop, Node::Catalog, "catalog.users").await, Some(0.0))).await;
    // A message for two nodes becomes a dead letter of both.
    external.send("user_created", Some(1), b"{}").await;
    assert_eq!(dead_letters(&admin, Node::Catalog, 1).await[0]["queue"], "catalog.users");
    assert_eq!(dead_letters(&admin, Node::Order, 3).await[2]["queue"], "order.users");
    shop.close().await;
}

async fn only_an_administrator_sees_dead_letters(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    ExternalPublisher::connect(&shop).await.send("product.created", Some(1), b"{").await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    let one = path(&letter);
    for (method, path) in [
        (Method::GET, "/admin/dead-letters"),
        (Method::GET, &one),
        (Method::POST, &format!("{one}/redrive")),
        (Method::DELETE, &one),
    ] {
        for node in Node::ALL {
            shop.anonymous().send(method.clone(), node, path, None).await.expect(401);
            anna.send(method.clone(), node, path, None).await.expect(403);
        }
    }
    assert_eq!(dead_letters(&admin, Node::Order, 1).await, [letter]);
    shop.close().await;
}

async fn a_dropped_dead_letter_is_deleted(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    for body in [b"{", b"["] {
        external.send("product.created", Some(1), body).await;
    }
    let letters = dead_letters(&admin, Node::Order, 2).await;
    let dropped = admin.delete(Node::Order, &path(&letters[0])).await.expect(200);
    assert_eq!(dropped["message"], "the dead letter is dropped");
    admin.delete(Node::Order, &path(&letters[0])).await.expect(404);
    admin.get(Node::Order, &path(&letters[0])).await.expect(404);
    redrive(&admin, &letters[0]).await.expect(404);
    assert_eq!(dead_letters(&admin, Node::Order, 1).await, letters[1..]);
    admin.delete(Node::Order, "/admin/dead-letters/7").await.expect(400);
    shop.close().await;
}

async fn dead_letters_are_listed_in_pages(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    for n in 0..5 {
        external.send("product.created", Some(1), n.to_string().as_bytes()).await;
        dead_letters(&admin, Node::Order, n + 1).await; // keeps the order with replicas
    }
    external.send("user_deleted", Some(1), b"{").await;
    let letters = dead_letters(&admin, Node::Order, 6).await;
    let payload = |letter: &Value| letter["payload"].as_str().unwrap().to_owned();
    let payloads: Vec<_> = letters.iter().map(payload).collect();
    assert_eq!(payloads, ["0", "1", "2", "3", "4", "{"], "the oldest first");

    for (first, expected) in [
        ("/admin/dead-letters?limit=2", &letters[..]),
        ("/admin/dead-letters?queue=product.created&limit=2", &letters[..5]),
        ("/admin/dead-letters/?limit=6", &letters[..]),
        ("/admin/dead-letters?queue=order.users", &letters[5..]),
        ("/admin/dead-letters?queue=unknown.queue", &[]),
    ] {
        let mut listed = vec![];
        let mut next = Some(first.to_owned());
        while let Some(path) = next {
            let page = admin.get(Node::Order, &path).await;
            listed.extend(page.expect(200).as_array().unwrap().clone());
            next = page.headers.get("link").map(|link| {
                let link = link.to_str().unwrap().strip_prefix('<').unwrap();
                link.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
            });
        }
        assert_eq!(listed, expected, "{first}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=x", "cursor=1.2"] {
        let path = format!("/admin/dead-letters?{query}");
        admin.get(Node::Order, &path).await.expect(400);
    }
    shop.close().await;
}
