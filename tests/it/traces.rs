//! Traces and log lines: what was done for a request, on whichever node, is found by its trace.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::{Router, body::Bytes, extract::State, routing::post};
use futures::future::join_all;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};
use shop_messaging::Message;
use shop_supervisor::Node;
use shop_tests::{Folder, free_port, rabbitmq::RabbitMq};

use crate::events::message;
use crate::processes::{Process, on_fixed_ports, ready};
use crate::shop::{Answer, Client, Over, Settings, eventually, same};

/// An OpenTelemetry collector that keeps what it gets.
#[derive(Clone)]
struct Collector {
    url: String,
    steps: Arc<Mutex<Vec<Step>>>,
}

/// A span, and whose it is.
#[derive(Clone, Debug)]
struct Step {
    service: String,
    span: Span,
}

impl Collector {
    async fn start() -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let steps = Arc::default();
        let take = async |State(steps): State<Arc<Mutex<Vec<Step>>>>, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            for of_one in request.resource_spans {
                let service =
                    text(&of_one.resource.expect("a resource").attributes, "service.name");
                let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
                let step = |span| Step { service: service.clone(), span };
                steps.lock().unwrap().extend(spans.map(step));
            }
        };
        let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&steps));
        tokio::spawn(axum::serve(listener, app).into_future());
        Collector { url, steps }
    }

    /// All that is known of a trace so far.
    fn trace(&self, id: &str) -> Vec<Step> {
        let steps = self.steps.lock().unwrap();
        steps.iter().filter(|step| hex(&step.span.trace_id) == id).cloned().collect()
    }

    /// The steps from the one that its caller caused to one that begins so.
    fn way_to(&self, id: &str, last: &str) -> Result<Vec<Step>, String> {
        let steps = self.trace(id);
        let mut ends = steps.iter().filter(|step| step.shown().starts_with(last));
        let Some(last) = ends.next() else {
            return Err(format!("{last} is not among {:?}", shown(&steps)));
        };
        let mut way = vec![last.clone()];
        while let parent = &way[0].span.parent_span_id
            && let Some(before) = steps.iter().find(|step| step.span.span_id == *parent)
        {
            way.insert(0, before.clone());
        }
        match hex(&way[0].span.parent_span_id) == CALLER {
            true => Ok(way),
            false => Err(format!("what is before it is not there yet: {:?}", shown(&way))),
        }
    }
}

impl Step {
    /// Whose step, and what it does.
    fn shown(&self) -> String {
        format!("{}: {}", self.service, self.span.name)
    }

    fn text(&self, attribute: &str) -> String {
        text(&self.span.attributes, attribute)
    }
}

fn shown(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::shown).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The step of the test that causes everything.
const CALLER: &str = "b7ad6b7169203331";

/// The trace of a request that a test sends, and how it says so.
fn trace(number: u32) -> (String, String) {
    let id = format!("{:032x}", u128::MAX - u128::from(number));
    (id.clone(), format!("00-{id}-{CALLER}-01"))
}

async fn order(who: &Client, product: &Value, traceparent: &str) -> Answer {
    let order =
        json!({"user_id": who.id(), "items": [{"product_id": product["id"], "quantity": 1}]});
    let request = who.request(Method::POST, Node::Order, "/order").json(&order);
    Answer::of(request.header("traceparent", traceparent).header("x-request-id", "tea")).await
}

/// A shop of processes, all nodes in each or one in each, which export to `url` and log JSON.
async fn start(
    folder: &Folder,
    over: Over,
    url: &str,
    runs: &[&[&str]],
) -> (Settings, Client, Vec<Process>) {
    let (mut settings, urls) = on_fixed_ports(over).await;
    settings.set("SHOP__TELEMETRY__OTLP_ENDPOINT", url);
    settings.set("SHOP__LOG__FORMAT", "json");
    settings.set("SHOP__ORDER__SHARDS", "1");
    let mut processes = vec![];
    for arguments in runs {
        processes.push(Process::start(folder, arguments, &settings.variables).await);
    }
    let nobody = Client::new(urls);
    for node in Node::ALL {
        ready(&nobody, node).await;
    }
    (settings, nobody, processes)
}

#[tokio::test]
async fn one_trace_leads_from_the_request_to_the_consumer_on_another_node() {
    let folder = Folder::new("shop-trace").unwrap();
    let collector = Collector::start().await;
    let nodes: [&[&str]; 3] = [&["run", "auth"], &["run", "catalog"], &["run", "order"]];
    let (settings, nobody, processes) =
        start(&folder, Over::RabbitMq, &collector.url, &nodes).await;
    let admin = nobody.sign_in("admin").await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201); // now the order node has heard of both
    // And the catalog of that order, so that it is not told of two at once.
    eventually(async || same(admin.left(&teapot).await, 9)).await;
    let (id, traceparent) = trace(1);
    order(&admin, &teapot, &traceparent).await.expect(201);

    let way = async |last| eventually(async || collector.way_to(&id, last)).await;
    let stored = way("shop-order: with placed as").await;
    let begins = [
        "shop-order: POST /order",
        "shop-order: orders",
        "shop-order: place orders",
        "shop-order: with placed as",
    ];
    assert_begin(&stored, &begins);
    let published = way("shop-order: publish stock.moved").await;
    assert_begin(&published, &[&begins[..2], &["shop-order: publish stock.moved"]].concat());
    let moved = way("shop-catalog: with fresh as").await;
    let on_the_catalog = [
        "shop-catalog: consume stock.moved",
        "shop-catalog: catalog",
        "shop-catalog: with fresh as",
    ];
    let begins = [&begins[..2], &["shop-order: publish stock.moved"], &on_the_catalog[..]].concat();
    assert_begin(&moved, &begins);

    let [request, .., publish, consume, _, sql] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!(request.text("http.request.method"), "POST");
    assert_eq!(request.text("http.route"), "/order");
    assert_eq!(request.text("http.response.status_code"), "201");
    assert_eq!(request.text("request.id"), "tea");
    assert_eq!(consume.text("messaging.system"), "rabbitmq");
    assert_eq!(consume.text("messaging.destination.name"), "stock.moved");
    assert_eq!(consume.text("messaging.message.id"), publish.text("messaging.message.id"));
    assert!(sql.text("db.query.text").contains("insert into stock_movements"));
    for steps in moved.windows(2) {
        assert!(steps[0].span.start_time_unix_nano <= steps[1].span.start_time_unix_nano);
    }
    assert_eq!(
        moved
            .iter()
            .find(|step| step.span.status.as_ref().is_some_and(|s| s.code == 2))
            .map(Step::shown),
        None
    );

    // What a message is refused for is found by its trace as well.
    let (id, traceparent) = trace(2);
    let mut stranger =
        settings.rabbit(RabbitMq::shared().await.unwrap().port()).publisher().await.unwrap();
    let traceparent = Some(traceparent);
    let broken = Message { traceparent, ..message("product.created", Some(1), b"{}") };
    stranger.publish(1, broken).await.unwrap();
    stranger.confirmed().await.unwrap();
    let refused = eventually(async || collector.way_to(&id, "shop-order: consume")).await;
    let status = refused[0].span.status.clone().unwrap();
    assert_eq!(status.code, 2);
    let line = eventually(async || line(&processes[2], "a message is dead-lettered"));
    let line = line.await;
    assert_eq!((&line["span"]["trace.id"], &line["reason"]), (&json!(id), &json!(status.message)));
    for process in processes {
        assert!(process.stop().await.success());
    }
}

#[track_caller]
fn assert_begin(way: &[Step], begins: &[&str]) {
    let shown = shown(way);
    let begin = |(shown, begin): (&String, &&str)| shown.starts_with(begin);
    assert!(
        shown.len() == begins.len() && shown.iter().zip(begins).all(begin),
        "{shown:?} is not {begins:?}"
    );
}

/// The line of a JSON log with this message.
fn line(process: &Process, message: &str) -> Result<Value, String> {
    let log = process.read("err");
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == message).ok_or(format!("'{message}' is not in {log}"))
}

#[tokio::test]
async fn orders_that_share_a_transaction_keep_their_own_traces() {
    let folder = Folder::new("shop-traces").unwrap();
    let collector = Collector::start().await;
    let (_, nobody, mut processes) = start(&folder, Over::Bus, &collector.url, &[&["run"]]).await;
    let admin = nobody.sign_in("admin").await;
    let teapot = admin.product(5, 1_000_000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut numbers = 100_u32..;
    // Again, should none of them have met in a transaction.
    let (place, others) = eventually(async || {
        let traces: Vec<_> = numbers.by_ref().take(16).map(trace).collect();
        let place = async |traceparent| order(&admin, &teapot, traceparent).await.expect(201);
        join_all(traces.iter().map(|(_, traceparent)| place(traceparent))).await;
        for (id, _) in &traces {
            let moved = async || collector.way_to(id, "shop: consume stock.moved");
            let way = [
                "shop: POST /order",
                "shop: orders",
                "shop: publish stock.moved",
                "shop: consume stock.moved",
            ];
            assert_begin(&eventually(moved).await, &way);
        }
        let steps = traces.iter().flat_map(|(id, _)| collector.trace(id));
        let places: Vec<_> = steps.filter(|step| step.span.name == "place orders").collect();
        assert_eq!(places.iter().map(orders).sum::<usize>(), traces.len());
        let shared = places.into_iter().find(|place| orders(place) > 1).ok_or("each was alone")?;
        let ids = traces.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        Ok((shared, ids))
    })
    .await;
    assert_eq!(place.span.links.len(), orders(&place) - 1);
    for other in &place.span.links {
        assert!(other.trace_id != place.span.trace_id && others.contains(&hex(&other.trace_id)));
    }
    assert!(processes.remove(0).stop().await.success());
}

/// How many were placed at once.
fn orders(place: &Step) -> usize {
    place.text("shop.orders").parse().unwrap()
}

#[tokio::test]
async fn a_log_line_of_an_owner_says_for_which_request_and_trace_it_worked() {
    let folder = Folder::new("shop-lines").unwrap();
    let (settings, nobody, mut processes) = start(&folder, Over::Bus, "", &[&["run"]]).await;
    let admin = nobody.sign_in("admin").await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut holder = settings.database(Node::Order).await;
    let hold = "begin; select from products for update";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let (id, traceparent) = trace(6);
    order(&admin, &teapot, &traceparent).await.expect(503);
    let said = "the database did not do its work"; // the lock that it wanted was not to be had
    let line = eventually(async || line(&processes[0], said)).await;
    assert_eq!(line["span"]["request.id"], "tea", "{line}");
    assert_eq!(line["span"]["trace.id"], json!(id), "{line}");
    drop(holder);
    assert!(processes.remove(0).stop().await.success());
}

#[tokio::test]
async fn a_collector_that_is_away_is_missed_once_and_holds_nobody_up() {
    let folder = Folder::new("shop-unheard").unwrap();
    let away = format!("http://127.0.0.1:{}", free_port());
    nobody_is_held_up(&folder, &away).await;
}

#[tokio::test]
async fn a_collector_that_hangs_is_missed_once_and_holds_nobody_up() {
    let folder = Folder::new("shop-hung").unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // nobody accepts
    let url = format!("http://{}", hangs.local_addr().unwrap());
    nobody_is_held_up(&folder, &url).await;
}

async fn nobody_is_held_up(folder: &Folder, collector: &str) {
    let (_, nobody, mut processes) = start(folder, Over::Bus, collector, &[&["run"]]).await;
    let admin = nobody.sign_in("admin").await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let missed = "exporting spans fails; spans are dropped until the collector accepts them again";
    eventually(async || line(&processes[0], missed)).await;
    let since = Instant::now();
    for _ in 0..50 {
        admin.order(&[(&teapot, 1)]).await.expect(201);
    }
    assert!(since.elapsed() < Duration::from_secs(20), "it took {:?}", since.elapsed());
    let process = processes.remove(0);
    assert_eq!(process.read("err").matches(missed).count(), 1);
    assert!(process.stop().await.success());
}
