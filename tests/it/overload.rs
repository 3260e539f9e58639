//! Far more than a node can do: what is refused, and what is answered all the same.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::Folder;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::processes::{Process, on_fixed_ports, ready};
use crate::shop::{Answer, Client, Over, eventually, same};

/// So many order at once, without a pause: ten times as many as there is room for.
const CROWD: usize = 320;

/// How long: a few seconds, or as `SHOP_TESTS_OVERLOAD_SECONDS` says.
fn duration() -> Duration {
    let seconds = std::env::var("SHOP_TESTS_OVERLOAD_SECONDS").unwrap_or("5".into());
    Duration::from_secs(seconds.parse().expect("SHOP_TESTS_OVERLOAD_SECONDS is a number"))
}

/// Orders until the time is over. Says how many were placed and how many refused.
async fn order_until(client: Client, body: serde_json::Value, end: Instant) -> (usize, usize) {
    let (mut placed, mut refused) = (0, 0);
    while Instant::now() < end {
        let answer = client.post(Node::Order, "/order", body.clone()).await;
        match answer.status.as_u16() {
            201 => placed += 1,
            _ => {
                answer.expect(503); // with Retry-After
                refused += 1;
            }
        }
    }
    (placed, refused)
}

/// Asks ten times a second until the time is over. Says how long it took, the shortest first.
async fn look_until(client: Client, node: Node, path: &'static str, end: Instant) -> Vec<Duration> {
    let mut times = vec![];
    let mut tick = interval(Duration::from_millis(100));
    while Instant::now() < end {
        tick.tick().await;
        let since = Instant::now();
        let answer = Answer::of(client.request(Method::GET, node, path)).await;
        times.push(since.elapsed());
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_what_is_too_much_and_goes_on() {
    let folder = Folder::new("shop-overload").unwrap();
    let (mut settings, urls) = on_fixed_ports(Over::Bus).await;
    settings.set("SHOP__EMBEDDED__BROKER", "true");
    settings.set("SHOP__HTTP__MAX_IN_FLIGHT", "32");
    settings.set("SHOP__MAILBOXES__ORDERS", "4");
    let client = Client::new(urls);
    let process = Process::start(&folder, &[], &settings.variables).await;
    for node in Node::ALL {
        ready(&client, node).await;
    }
    let admin = client.sign_in("admin").await;
    let teapot = admin.product(5, 1_000_000_000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let items = json!([{"product_id": teapot["id"], "quantity": 1}]);
    let body = json!({"user_id": admin.id(), "items": items});

    // All connections are open before it is measured: each takes some memory, and keeps it.
    let crowd = |end| {
        let orders = (0..CROWD).map(|_| order_until(admin.clone(), body.clone(), end));
        orders.collect::<JoinSet<_>>()
    };
    let warmed_up = crowd(Instant::now() + Duration::from_secs(2)).join_all().await;
    let before = process.megabytes();

    let end = Instant::now() + duration();
    let orders = crowd(end);
    let (root, actors, metrics) = tokio::join!(
        look_until(client.clone(), Node::Order, "/", end),
        look_until(admin.clone(), Node::Order, "/admin/actors", end),
        look_until(client.clone(), Node::Order, "/metrics", end),
    );
    let during = process.megabytes();
    let counts = orders.join_all().await;
    let placed: usize = counts.iter().map(|(placed, _)| placed).sum();
    let refused: usize = counts.iter().map(|(_, refused)| refused).sum();
    assert!(placed > 0 && refused > 0, "{placed} placed, {refused} refused");
    assert!(during <= before + before / 5, "{before} MB before, {during} MB during");
    println!("{placed} placed, {refused} refused; {before} MB before, {during} MB during");
    for (path, times) in [("/", root), ("/admin/actors", actors), ("/metrics", metrics)] {
        let p99 = times[(times.len() - 1) * 99 / 100];
        println!("{path}: p99 {p99:?} of {} times", times.len());
        // Here the crowd itself takes most of the machine, and other tests the rest.
        assert!(p99 < Duration::from_secs(1), "{path}: {p99:?}");
    }

    // Within seconds everything is as before.
    let over = Instant::now();
    eventually(async || {
        let list = admin.get(Node::Order, "/admin/actors?flat=true").await.expect(200);
        let list = list.as_array().unwrap().clone();
        let calm = |it: &serde_json::Value| it["mailbox_depth"] == 0 && it["status"] == "running";
        let busy = list.into_iter().find(|it| it["kind"] == "actor" && !calm(it));
        busy.map_or(Ok(()), |busy| Err(busy.to_string()))
    })
    .await;
    assert!(over.elapsed() < Duration::from_secs(5), "{:?}", over.elapsed());
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let sold: usize = placed + warmed_up.iter().map(|(placed, _)| placed).sum::<usize>() + 2;
    let sold = sold as i64;
    eventually(async || {
        let left = 1_000_000_000 - admin.left(&teapot).await;
        if left >= sold { Ok(()) } else { same(left, sold).map(drop) }
    })
    .await;
    assert!(process.stop().await.success());
}
