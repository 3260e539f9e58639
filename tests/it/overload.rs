//! Overload: which requests a node refuses, and which it still serves.

use std::time::{Duration, Instant};

use reqwest::Method;
use shop_supervisor::Node;
use shop_tests::api::ActorView;
use shop_tests::{BrokerKind, Client, Folder, Process, Response, Settings, eventually};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::actors;

/// The number of clients that order without a pause: ten times the limit of requests in flight.
const CLIENTS: usize = 320;

/// The duration of the overload: 5 s, or `SHOP_TESTS_OVERLOAD_SECONDS`.
fn duration() -> Duration {
    let seconds = std::env::var("SHOP_TESTS_OVERLOAD_SECONDS").unwrap_or("5".into());
    Duration::from_secs(seconds.parse().expect("SHOP_TESTS_OVERLOAD_SECONDS is a number"))
}

/// Orders until `end`. Returns the numbers of placed and refused orders.
async fn order_until(client: Client, body: serde_json::Value, end: Instant) -> (usize, usize) {
    let (mut placed, mut refused) = (0, 0);
    while Instant::now() < end {
        let response = client.post(Node::Order, "/order", body.clone()).await;
        match response.status.as_u16() {
            201 => placed += 1,
            _ => {
                response.expect(503); // with Retry-After
                refused += 1;
            }
        }
    }
    (placed, refused)
}

/// Sends ten requests per second until `end`. Returns their latencies in ascending order.
async fn poll_until(client: Client, node: Node, path: &'static str, end: Instant) -> Vec<Duration> {
    let mut times = vec![];
    let mut tick = interval(Duration::from_millis(100));
    while Instant::now() < end {
        tick.tick().await;
        let since = Instant::now();
        let response = Response::of(client.request(Method::GET, node, path)).await;
        times.push(since.elapsed());
        assert_eq!(response.status, 200, "{path}: {}", response.text);
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_node_refuses_requests_and_recovers() {
    let folder = Folder::new("shop-overload").unwrap();
    let (mut settings, urls) = Settings::with_fixed_ports(BrokerKind::Bus).await;
    settings.set("SHOP__EMBEDDED__BROKER", "true");
    settings.set("SHOP__HTTP__MAX_IN_FLIGHT", "32");
    settings.set("SHOP__MAILBOXES__ORDERS", "4");
    let client = Client::new(urls);
    let process = Process::start(&folder, &[], &settings.variables).await;
    client.until_ready().await;
    let admin = client.log_in("admin").await;
    let teapot = admin.product(5, 1_000_000_000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let body = admin.order_body(&[(&teapot, 1)]);

    // All connections are open before memory is measured: each holds some.
    let order_concurrently = |end| {
        let orders = (0..CLIENTS).map(|_| order_until(admin.clone(), body.clone(), end));
        orders.collect::<JoinSet<_>>()
    };
    let warm_up = order_concurrently(Instant::now() + Duration::from_secs(2)).join_all().await;
    let before = process.resident_mib();

    let end = Instant::now() + duration();
    let orders = order_concurrently(end);
    let (root, actors, metrics) = tokio::join!(
        poll_until(client.clone(), Node::Order, "/", end),
        poll_until(admin.clone(), Node::Order, "/admin/actors", end),
        poll_until(client.clone(), Node::Order, "/metrics", end),
    );
    let during = process.resident_mib();
    let counts = orders.join_all().await;
    let placed: usize = counts.iter().map(|(placed, _)| placed).sum();
    let refused: usize = counts.iter().map(|(_, refused)| refused).sum();
    assert!(placed > 0 && refused > 0, "{placed} placed, {refused} refused");
    assert!(during <= before + before / 5, "{before} MB before, {during} MB during");
    println!("{placed} placed, {refused} refused; {before} MB before, {during} MB during");
    for (path, times) in [("/", root), ("/admin/actors", actors), ("/metrics", metrics)] {
        let p99 = times[(times.len() - 1) * 99 / 100];
        println!("{path}: p99 {p99:?} of {} times", times.len());
        // The clients use most of the machine, other tests the rest.
        assert!(p99 < Duration::from_secs(1), "{path}: {p99:?}");
    }

    // All actors are idle again within seconds.
    let ended = Instant::now();
    eventually(async || {
        let actors = actors::list(&admin, Node::Order).await;
        let is_idle = |actor: &ActorView| actor.mailbox_depth == 0 && actor.status == "running";
        match actors.iter().find(|actor| actor.kind == "actor" && !is_idle(actor)) {
            Some(busy) => Err(format!("{busy:?}")),
            None => Ok(()),
        }
    })
    .await;
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let sold: usize = placed + warm_up.iter().map(|(placed, _)| placed).sum::<usize>() + 2;
    let sold = sold as i64;
    eventually(async || {
        let taken = 1_000_000_000 - admin.stock(&teapot).await;
        if taken >= sold { Ok(()) } else { Err(format!("{taken} of {sold} pieces are sold")) }
    })
    .await;
    assert!(process.stop().await.success());
}
