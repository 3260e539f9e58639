//! Pause, drain and restart by an administrator.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::api::Product;
use shop_tests::{Client, Response, TestShop, equal, eventually};
use sqlx::AssertSqlSafe;

use super::{control, find, list, until_order_succeeds, until_restarted, until_status};

/// Makes every order of this customer wait in the database for this number of seconds.
async fn hang_orders_of(shop: &TestShop, customer: &Client, seconds: u32) {
    let id = customer.id();
    let hang = format!(
        "create function hang() returns trigger language plpgsql as
           $$ begin perform pg_sleep({seconds}); return new; end $$;
         create trigger hang before insert on orders for each row
           when (new.user_id = '{id}') execute function hang()"
    );
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(AssertSqlSafe(hang)).execute(&mut database).await.expect("a trigger");
}

#[tokio::test]
async fn a_hanging_handler_is_shown_as_stuck_and_a_restart_recovers_it() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let (teapot, cup) = (admin.product(5, 1000).await, admin.product(5, 1000).await);
    let victim = shop.user("victim").await;
    victim.order(&[(&teapot, 1)]).await.expect(201);
    let mut others = vec![];
    for number in 0..8 {
        others.push(shop.user(&format!("other-{number}")).await);
    }
    for other in &others {
        other.order(&[(&cup, 1)]).await.expect(201);
    }
    hang_orders_of(&shop, &victim, 60).await;
    let since = Instant::now();
    let hung = async {
        let order = victim.order_body(&[(&teapot, 1)]);
        (victim.post(Node::Order, "/order", order).await, since.elapsed())
    };
    let observed = async {
        let stuck = eventually(async || {
            let actors = list(&admin, Node::Order).await;
            let stuck = actors.into_iter().find(|actor| actor.status == "stuck");
            stuck.ok_or("no actor is stuck".to_owned())
        })
        .await;
        // After two seconds; a busy machine gets some more.
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        let current = stuck.current.unwrap();
        assert!(current.for_ms > 2000.0, "{current:?}");
        assert_eq!(current.trace_id.map(|id| id.len()), Some(32));
        // Only orders that share the stuck shard fail.
        admin.product(5, 1).await;
        let orders = others.iter().map(async |other| other.order(&[(&cup, 1)]).await);
        let statuses: Vec<_> =
            join_all(orders).await.iter().map(|response| response.status.as_u16()).collect();
        assert!(statuses.contains(&201), "{statuses:?}");
        assert!(statuses.iter().all(|status| [201, 503].contains(status)), "{statuses:?}");
        stuck.path
    };
    let ((hung, took), path) = tokio::join!(hung, observed);
    hung.expect(503);
    assert!(took < Duration::from_secs(8), "within the caller's deadline: {took:?}");
    control(&admin, Node::Order, &path, "restart").await.expect(202);
    let restarted = until_status(&admin, Node::Order, &path, "running").await;
    assert_eq!(restarted.restarts, 1);
    let reason = &restarted.failures[0].reason;
    assert_eq!(reason, "restarted by an administrator: to see what happens");
    let mut database = shop.settings.database(Node::Order).await;
    let repair = "drop trigger hang on orders";
    eventually(async || {
        sqlx::raw_sql(repair).execute(&mut database).await.map_err(|error| error.to_string())
    })
    .await;
    victim.order(&[(&teapot, 1)]).await.expect(201);
    shop.close().await;
}

#[tokio::test]
async fn a_paused_actor_waits_and_a_drained_one_refuses() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    admin.category("Сад", None).await;
    let customers = "shop/catalog/customers/0";
    control(&admin, Node::Catalog, customers, "pause").await.expect(202);
    let paused = until_status(&admin, Node::Catalog, customers, "paused").await;
    assert_eq!(paused.actions, ["resume", "restart", "drain"]);
    control(&admin, Node::Catalog, customers, "pause").await.expect(409);
    admin
        .post(Node::Catalog, &format!("/admin/actors/{customers}/resume"), json!({}))
        .await
        .expect(202);
    until_status(&admin, Node::Catalog, customers, "running").await;
    for owner in 0..4 {
        control(&admin, Node::Catalog, &format!("shop/catalog/catalog/{owner}"), "drain")
            .await
            .expect(202);
    }
    for owner in 0..4 {
        until_status(&admin, Node::Catalog, &format!("shop/catalog/catalog/{owner}"), "stopped")
            .await;
    }
    let refused = admin.get(Node::Catalog, "/api/v1/products").await.problem(503);
    assert!(refused.detail.contains("is draining"), "{refused:?}");
    for owner in 0..4 {
        // No body is needed.
        let path = format!("/admin/actors/shop/catalog/catalog/{owner}/resume");
        admin.send(Method::POST, Node::Catalog, &path, None).await.expect(202);
    }
    eventually(async || {
        equal(admin.get(Node::Catalog, "/api/v1/products").await.status.as_u16(), 200)
    })
    .await;
    // The same holds for services: a paused relay publishes nothing.
    let relay = "shop/order/broker/relay";
    control(&admin, Node::Order, relay, "pause").await.expect(202);
    until_status(&admin, Node::Order, relay, "paused").await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 3)]).await.expect(201);
    let metrics = shop.anonymous().get(Node::Order, "/metrics").await.text;
    assert!(metrics.contains("shop_outbox_length{table=\"outbox\",node=\"order\"} 1"), "{metrics}");
    assert_eq!(admin.stock(&teapot).await, 10);
    control(&admin, Node::Order, relay, "resume").await.expect(202);
    admin.until_stock(&teapot, 7).await;
    shop.close().await;
}

#[tokio::test]
async fn orders_bypass_a_paused_shard() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let first = "shop/order/orders/0";
    control(&admin, Node::Order, first, "pause").await.expect(202);
    until_status(&admin, Node::Order, first, "paused").await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let next = find(&admin, Node::Order, "shop/order/orders/1").await;
    assert_eq!(next.messages["Place"], 1, "{next:?}");
    control(&admin, Node::Order, first, "resume").await.expect(202);
    shop.close().await;
}

#[tokio::test]
async fn a_drained_actor_answers_all_waiting_requests() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    // The order waits a second for the event of a product that does not exist.
    let unknown = Product { id: 987_654_321, ..teapot.clone() };
    let order = admin.order_body(&[(&unknown, 1)]);
    let waits = admin.post(Node::Order, "/order", order);
    let drained = async {
        let waiting = async || {
            for owner in 0..4 {
                let path = format!("shop/order/orders/{owner}");
                let actor = find(&admin, Node::Order, &path).await;
                if actor.state["waiting_for_events"] == 1 {
                    return Ok(path);
                }
            }
            Err("no order waits for an event".to_owned())
        };
        let path = eventually(waiting).await;
        control(&admin, Node::Order, &path, "drain").await.expect(202);
        until_status(&admin, Node::Order, &path, "stopped").await
    };
    let (waits, stopped) = tokio::join!(waits, drained);
    assert_eq!(waits.invalid_fields(), ["items[0].product_id"]);
    assert_eq!((stopped.lost, stopped.mailbox_depth), (0, 0), "{stopped:?}");
    // A restart of the branch ends the drain of its actors.
    control(&admin, Node::Order, "shop/order", "restart").await.expect(202);
    until_restarted(&admin, Node::Order, "shop/order").await;
    until_status(&admin, Node::Order, &stopped.path, "running").await;
    until_order_succeeds(&admin, &teapot).await;
    shop.close().await;
}

#[tokio::test]
async fn a_control_action_needs_a_reason_and_is_in_the_audit_log() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let users = "shop/auth/users/0";
    let path = format!("/admin/actors/{users}/restart");
    for reason in [
        json!({}),
        json!({"reason": ""}),
        json!({"reason": "  "}),
        json!({"reason": "x".repeat(501)}),
    ] {
        assert_eq!(admin.post(Node::Auth, &path, reason).await.invalid_fields(), ["reason"]);
    }
    admin.send(Method::POST, Node::Auth, &path, None).await.expect(422);
    assert_eq!(admin.get(Node::Auth, "/admin/audit").await.expect(200), json!([]));
    let done = control(&admin, Node::Auth, users, "restart").await;
    let entry = done.expect(202);
    assert_eq!((&entry["action"], &entry["actor"]), (&json!("restart"), &json!(users)));
    assert_eq!((&entry["username"], &entry["user_id"]), (&json!("admin"), &json!(admin.id())));
    assert_eq!(entry["reason"], "to see what happens");
    assert_eq!(entry["request_id"], done.header("x-request-id"));
    // A refused action is not in the audit log.
    control(&admin, Node::Auth, "shop/auth/http", "pause").await.expect(409);
    control(&admin, Node::Auth, "shop", "restart").await.expect(409);
    control(&admin, Node::Auth, "shop/auth/audit/0", "pause").await.expect(409); // nothing could resume it
    control(&admin, Node::Auth, "shop/auth/unknown", "restart").await.expect(404);
    control(&admin, Node::Auth, users, "explode").await.expect(404);
    for (action, status) in [("pause", "paused"), ("resume", "running"), ("drain", "stopped")] {
        control(&admin, Node::Auth, "shop/auth/sweeper", action).await.expect(202);
        until_status(&admin, Node::Auth, "shop/auth/sweeper", status).await;
    }
    let first = admin.get(Node::Auth, "/admin/audit?limit=3").await;
    let actions: Vec<_> =
        first.expect(200).as_array().unwrap().iter().map(|it| it["action"].clone()).collect();
    assert_eq!(actions, ["drain", "resume", "pause"]);
    let next = first.next_page().unwrap();
    assert_eq!(admin.get(Node::Auth, &next).await.expect(200), json!([entry]));
    // A repeated request gets the first response.
    let keyed = || {
        let request = admin.request(Method::POST, Node::Auth, &path);
        Response::of(request.header("idempotency-key", "once").json(&json!({"reason": "again"})))
    };
    let (one, two) = (keyed().await, keyed().await);
    assert_eq!((one.expect(202), two.header("idempotency-replayed")), (two.expect(202), "true"));
    eventually(async || equal(find(&admin, Node::Auth, users).await.restarts, 2)).await;
    shop.close().await;
}

#[tokio::test]
async fn only_administrators_inspect_and_control_actors() {
    let shop = TestShop::start().await;
    let anna = shop.user("anna").await;
    let get = |path: &str| (Method::GET, path.to_owned());
    let post = |path: &str| (Method::POST, path.to_owned());
    for node in Node::ALL {
        let own = node.name();
        let peer = shop.anonymous().peer(node);
        for (method, path) in [
            get("/admin/actors"),
            get("/admin/actors?flat=true&sort=handled"),
            get(&format!("/admin/actors/shop/{own}/http")),
            get("/admin/actors/shop/unknown"),
            get("/admin/actors/stream"),
            get("/admin/history"),
            get("/admin/node"),
            get("/admin/audit"),
            get("/admin/cluster/actors"),
            get(&format!("/admin/cluster/{peer}/history")),
            get(&format!("/admin/cluster/{peer}/actors/shop/{own}/http")),
            get("/admin/cluster/nowhere:1/history"),
            post(&format!("/admin/actors/shop/{own}/http/restart")),
            post(&format!("/admin/actors/shop/{own}/broker/relay/pause")),
            post(&format!("/admin/actors/shop/{own}/broker/relay/resume")),
            post(&format!("/admin/actors/shop/{own}/broker/relay/drain")),
            post(&format!("/admin/cluster/{peer}/actors/shop/{own}/http/restart")),
            get("/admin/dead-letters"),
            get("/admin/ledger"),
        ] {
            let body = (method == Method::POST).then(|| json!({"reason": "to see"}));
            let refused = shop.anonymous().send(method.clone(), node, &path, body.clone()).await;
            refused.expect(401);
            anna.send(method, node, &path, body).await.expect(403);
        }
    }
    shop.close().await;
}
