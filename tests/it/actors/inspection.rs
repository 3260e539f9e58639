//! What the inspector shows.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use shop_runtime::registry::ActorKind;
use shop_supervisor::Node;
use shop_tests::api::{ActorView, Login};
use shop_tests::{BrokerKind, PASSWORD, Settings, TestShop, equal, eventually, free_port};

use super::{control, find, list};

#[tokio::test]
async fn the_tree_contains_exactly_the_actors_of_its_node() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    for (node, own, parts) in [
        (Node::Auth, "auth", &["users/0", "users/3", "passwords", "users_admin/0"][..]),
        (Node::Catalog, "catalog", &["catalog/0", "customers/0", "broker/consumer/stock.moved"]),
        (
            Node::Order,
            "order",
            &["orders/0", "broker/dead_letter_consumer/order.users", "broker/relay"],
        ),
    ] {
        let tree = admin.get(node, "/admin/actors").await.expect(200);
        let mut paths = vec![];
        let mut open = vec![&tree];
        while let Some(actor) = open.pop() {
            paths.push(actor["path"].as_str().expect("a path").to_owned());
            for child in actor["children"].as_array().expect("children") {
                let (path, parent) = (child["path"].as_str().unwrap(), actor["path"].as_str());
                assert!(path.starts_with(parent.unwrap()), "{path} is a child of {parent:?}");
                open.push(child);
            }
        }
        paths.sort();
        let mut listed: Vec<_> =
            list(&admin, node).await.into_iter().map(|actor| actor.path).collect();
        listed.sort();
        assert_eq!(paths, listed, "the tree and the list have the same actors");
        let common = ["http", "sweeper", "broker", "broker/connection", "audit/0", "health/0"];
        for part in parts.iter().chain(&common) {
            assert!(paths.contains(&format!("shop/{own}/{part}")), "no {part} in {paths:#?}");
        }
        for other in ["auth", "catalog", "order"].iter().filter(|other| **other != own) {
            assert!(!paths.iter().any(|path| path.starts_with(&format!("shop/{other}"))));
        }
        for path in ["shop", "shop/databases", "shop/inspector"] {
            assert!(paths.iter().any(|known| known == path), "no {path}");
        }
    }
    admin.get(Node::Order, "/admin/actors/shop/auth/users/0").await.expect(404);
    admin.get(Node::Order, "/admin/actors/shop/unknown").await.expect(404);
    shop.close().await;
}

#[tokio::test]
async fn an_actor_is_measured_for_each_message() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let teapot = admin.product(5, 100).await;
    for _ in 0..5 {
        admin.order(&[(&teapot, 1)]).await.expect(201);
    }
    // One shard placed all orders: one after the other. Each was placed by two messages.
    let path = eventually(async || {
        let actors = list(&admin, Node::Order).await;
        let mut shards = actors.into_iter().filter(|actor| actor.path.contains("/orders/"));
        let busy = shards.find(|shard| shard.handled > 9 && shard.mailbox_depth == 0);
        busy.map(|shard| shard.path).ok_or("no shard handled 10 messages".to_owned())
    })
    .await;
    let shard = admin.get(Node::Order, &format!("/admin/actors/{path}")).await.expect(200);
    assert!(shard["messages"]["Place"].as_i64() >= Some(5), "{shard}");
    assert!(shard["messages"]["Flush"].as_i64() >= Some(5), "{shard}");
    assert_eq!(shard["mailbox_capacity"], 1024);
    assert!(shard["mailbox_high_water"].as_i64() >= Some(1), "{shard}");
    let quantiles = ["handler_p50_ms", "handler_p99_ms", "handler_max_ms"];
    let quantiles = quantiles.map(|name| shard[name].as_f64().expect("a number"));
    assert!(quantiles.is_sorted() && quantiles[2] > 0.0, "{shard}");
    assert!(shard["mailbox_p99_ms"].is_number(), "{shard}");
    let sum = |histogram: &Value| -> i64 {
        histogram.as_array().unwrap().iter().map(|bucket| bucket["count"].as_i64().unwrap()).sum()
    };
    assert_eq!(json!(sum(&shard["handler_histogram"])), shard["handled"]);
    assert_eq!(shard["state"], json!({"connected": true, "pending": 0, "waiting_for_events": 0}));
    assert!(shard["state_at"].is_string() && shard["started_at"].is_string());
    for counter in ["rejected", "expired", "lost", "restarts"] {
        assert_eq!(shard[counter], 0, "{counter}");
    }
    // HTTP servers, pools and services are measured too.
    let http = find(&admin, Node::Order, "shop/order/http").await;
    assert!(http.messages["POST"] >= 5, "{http:?}");
    let passwords = find(&admin, Node::Auth, "shop/auth/passwords").await;
    assert!(passwords.messages["Verify"] >= 1, "{passwords:?}");
    eventually(async || {
        let relay = find(&admin, Node::Order, "shop/order/broker/relay").await;
        let consumer =
            find(&admin, Node::Catalog, "shop/catalog/broker/consumer/stock.moved").await;
        let counts = [relay, consumer].map(|it| it.messages.get("stock.moved").copied());
        equal(counts, [Some(5), Some(5)])
    })
    .await;
    let metrics = shop.anonymous().get(Node::Order, "/metrics").await.text;
    let line = format!("shop_mailbox_handled_total{{actor=\"{path}\",node=\"order\"}}");
    assert!(metrics.contains(&line), "{metrics}");
    shop.close().await;
}

#[tokio::test]
async fn the_actor_list_is_sorted_and_paged() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let all = list(&admin, Node::Auth).await;
    for sort in ["path", "handled", "mailbox_depth", "handler_p99_ms", "messages_per_second"] {
        let whole = format!("/admin/actors?flat=true&sort={sort}");
        let whole = admin.get(Node::Auth, &whole).await.expect(200);
        assert_eq!(whole.as_array().unwrap().len(), all.len());
        let values: Vec<_> =
            whole.as_array().unwrap().iter().map(|it| it[sort].as_f64().unwrap_or(-1.0)).collect();
        assert!(values.iter().rev().is_sorted(), "{sort}: {values:?}");
        let mut next = Some(format!("/admin/actors?sort={sort}&limit=4"));
        let mut paths = vec![];
        while let Some(path) = next {
            let page = admin.get(Node::Auth, &path).await;
            paths.extend(page.read::<Vec<ActorView>>(200).into_iter().map(|actor| actor.path));
            next = page.next_page();
        }
        if sort == "path" {
            assert!(paths.is_sorted() && paths.len() == all.len(), "{paths:?}");
        }
    }
    for bad in ["sort=colour", "limit=0", "limit=1001", "cursor=here", "flat=perhaps"] {
        admin.get(Node::Auth, &format!("/admin/actors?{bad}")).await.expect(400);
    }
    shop.close().await;
}

#[tokio::test]
async fn ten_thousand_actors_are_listed_within_a_quarter_of_a_second() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    for number in 0..10_000 {
        let branch = shop.registry().branch("crowd").branch(&number.to_string());
        let actor_metrics = branch.actor_metrics(ActorKind::Actor, Some(8), 1);
        actor_metrics.measure("Greet", async {}).await;
    }
    for path in [
        "/admin/actors?flat=true&sort=handled&limit=100",
        "/admin/actors?flat=true&sort=handler_p99_ms&limit=100",
        "/admin/actors?flat=true",
        "/admin/actors",
    ] {
        // The fastest of several responses, because the machine may be busy.
        let limit = Duration::from_millis(if cfg!(debug_assertions) { 2500 } else { 250 });
        eventually(async || {
            let since = Instant::now();
            let response = admin.get(Node::Order, path).await;
            let duration = since.elapsed();
            assert_eq!(response.status, 200);
            if duration < limit { Ok(()) } else { Err(format!("{path} took {duration:?}")) }
        })
        .await;
    }
    shop.close().await;
}

#[tokio::test]
async fn the_event_stream_sends_only_changes() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let request = admin.request(Method::GET, Node::Order, "/admin/actors/stream");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.bytes_stream();
    let mut text = String::new();
    let mut next = async || loop {
        if let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let actors: Vec<ActorView> =
                data.map_or(vec![], |data| serde_json::from_str(data).expect("JSON"));
            text = rest.to_owned();
            return actors;
        }
        text += std::str::from_utf8(&events.next().await.expect("an event").unwrap()).unwrap();
    };
    let all = next().await;
    assert_eq!(all.len(), list(&admin, Node::Order).await.len(), "the first event has all actors");
    let shard = "shop/order/orders/1";
    control(&admin, Node::Order, shard, "restart").await.expect(202);
    let restarted = eventually(async || {
        let changed = next().await;
        assert!(changed.len() < all.len() / 2, "only changes: {}", changed.len());
        changed.into_iter().find(|actor| actor.path == shard).ok_or("no change".into())
    });
    assert_eq!(restarted.await.restarts, 1);
    // An open stream does not delay the shutdown.
    let since = Instant::now();
    shop.close().await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[tokio::test]
async fn every_node_shows_the_cluster_and_its_unreachable_members() {
    let mut settings = Settings::single_replica(BrokerKind::Bus).await;
    let ports: Vec<_> = (0..4).map(|_| free_port()).collect();
    for (node, port) in Node::ALL.into_iter().zip(&ports) {
        settings.set_of(node, "HTTP__PORT", &port.to_string());
    }
    let urls: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    settings.set("SHOP__CLUSTER__PEERS", &urls.join(", "));
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let members = admin.get(Node::Catalog, "/admin/cluster/actors").await.expect(200);
    let members = members.as_array().unwrap();
    assert_eq!(members.len(), 4);
    for (member, (own, url)) in members.iter().zip(["auth", "catalog", "order"].iter().zip(&urls)) {
        assert_eq!((&member["reachable"], &member["node"]), (&json!(true), &json!(own)));
        assert_eq!((&member["url"], &member["dead_letters"]), (&json!(url), &json!(0)));
        assert!(member["outbox"]["length"].is_i64() && member["broker"].is_boolean(), "{member}");
        assert_eq!(member["process"], members[0]["process"]);
        let http = format!("shop/{own}/http");
        assert!(member["actors"].as_array().unwrap().iter().any(|it| it["path"] == http));
    }
    let unreachable = &members[3];
    assert_eq!((&unreachable["reachable"], &unreachable["url"]), (&json!(false), &json!(urls[3])));
    assert!(unreachable["detail"].is_string(), "{unreachable}");
    // Every node forwards requests to every other node.
    let peer = members[2]["peer"].as_str().unwrap();
    let path = format!("/admin/cluster/{peer}/actors/shop/order/orders/2");
    assert_eq!(admin.get(Node::Auth, &path).await.expect(200)["path"], "shop/order/orders/2");
    let reason = json!({"reason": "from another node"});
    admin.post(Node::Auth, &format!("{path}/restart"), reason.clone()).await.expect(202);
    admin.post(Node::Auth, &format!("{path}/explode"), reason).await.expect(404);
    let audit = admin.get(Node::Auth, &format!("/admin/cluster/{peer}/audit?limit=1")).await;
    assert_eq!(audit.expect(200)[0]["reason"], "from another node");
    admin.get(Node::Auth, &format!("/admin/cluster/{peer}/dead-letters")).await.expect(404);
    let peer = unreachable["peer"].as_str().unwrap();
    admin.get(Node::Auth, &format!("/admin/cluster/{peer}/history")).await.expect(503);
    let login = json!({"username": "admin", "password": PASSWORD});
    shop.anonymous().post(Node::Order, "/admin/sign-in", login).await.read::<Login>(200);
    let wrong = json!({"username": "admin", "password": "wrong horse"});
    shop.anonymous().post(Node::Order, "/admin/sign-in", wrong).await.expect(401);
    shop.close().await;
}

#[tokio::test]
async fn the_history_has_one_sample_for_each_second() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let history = eventually(async || {
        let history = admin.get(Node::Auth, "/admin/history").await.expect(200);
        let users = &history["actors"]["shop/auth/users/0"];
        let samples = users["mailbox_depth"].as_array().map_or(0, Vec::len);
        if samples < 3 { Err(format!("{samples} samples")) } else { Ok(history) }
    })
    .await;
    assert_eq!(history["interval_seconds"], 1);
    for actor in history["actors"].as_object().unwrap().values() {
        let series = ["messages_per_second", "mailbox_depth", "handler_p99_ms"];
        let lengths = series.map(|name| actor[name].as_array().unwrap().len());
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    }
    shop.close().await;
}
