//! Traces and log lines: all work for a request, on every node, has the id of its trace.

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
use shop_tests::api::Product;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{BrokerKind, Client, Folder, Process, Response, Settings, eventually, free_port};

use crate::events::message;

/// An OpenTelemetry collector that stores all spans.
#[derive(Clone)]
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<ServiceSpan>>>,
}

/// A span and the service that exported it.
#[derive(Clone, Debug)]
struct ServiceSpan {
    service: String,
    span: Span,
}

impl Collector {
    async fn start() -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::default();
        let receive = async |State(spans): State<Arc<Mutex<Vec<ServiceSpan>>>>, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            for resource_spans in request.resource_spans {
                let resource = resource_spans.resource.expect("a resource");
                let service = text(&resource.attributes, "service.name");
                let exported = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
                let exported = exported.map(|span| ServiceSpan { service: service.clone(), span });
                spans.lock().unwrap().extend(exported);
            }
        };
        let app = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&spans));
        tokio::spawn(axum::serve(listener, app).into_future());
        Collector { url, spans }
    }

    /// All spans of a trace so far.
    fn trace(&self, id: &str) -> Vec<ServiceSpan> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|span| hex(&span.span.trace_id) == id).cloned().collect()
    }

    /// The path from the root span, whose parent is [`CALLER`], to a span whose name starts with `end`.
    fn path_to(&self, id: &str, end: &str) -> Result<Vec<ServiceSpan>, String> {
        let spans = self.trace(id);
        let Some(end) = spans.iter().find(|span| span.name().starts_with(end)) else {
            return Err(format!("{end} is not among {:?}", names(&spans)));
        };
        let mut path = vec![end.clone()];
        while let parent = &path[0].span.parent_span_id
            && let Some(parent) = spans.iter().find(|span| span.span.span_id == *parent)
        {
            path.insert(0, parent.clone());
        }
        if hex(&path[0].span.parent_span_id) == CALLER {
            Ok(path)
        } else {
            Err(format!("the parent of the first is missing: {:?}", names(&path)))
        }
    }
}

impl ServiceSpan {
    /// Service and name.
    fn name(&self) -> String {
        format!("{}: {}", self.service, self.span.name)
    }

    fn text(&self, attribute: &str) -> String {
        text(&self.span.attributes, attribute)
    }
}

fn names(spans: &[ServiceSpan]) -> Vec<String> {
    spans.iter().map(ServiceSpan::name).collect()
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

/// The id of the test's own span, the parent of all others.
const CALLER: &str = "b7ad6b7169203331";

/// The id of a trace, and the `traceparent` header of its request.
fn trace(number: u32) -> (String, String) {
    let id = format!("{:032x}", u128::MAX - u128::from(number));
    (id.clone(), format!("00-{id}-{CALLER}-01"))
}

async fn order(client: &Client, product: &Product, traceparent: &str) -> Response {
    let order = client.order_body(&[(product, 1)]);
    let request = client.request(Method::POST, Node::Order, "/order").json(&order);
    Response::of(request.header("traceparent", traceparent).header("x-request-id", "tea")).await
}

/// Starts processes with these arguments, which export to `url` and log JSON.
async fn start(
    folder: &Folder,
    broker: BrokerKind,
    url: &str,
    runs: &[&[&str]],
) -> (Settings, Client, Vec<Process>) {
    let (mut settings, urls) = Settings::with_fixed_ports(broker).await;
    settings.set("SHOP__TELEMETRY__OTLP_ENDPOINT", url);
    settings.set("SHOP__LOG__FORMAT", "json");
    settings.set("SHOP__ORDER__SHARDS", "1");
    let mut processes = vec![];
    for arguments in runs {
        processes.push(Process::start(folder, arguments, &settings.variables).await);
    }
    let anonymous = Client::new(urls);
    anonymous.until_ready().await;
    (settings, anonymous, processes)
}

#[tokio::test]
async fn one_trace_leads_from_the_request_to_the_consumer_on_another_node() {
    let folder = Folder::new("shop-trace").unwrap();
    let collector = Collector::start().await;
    let nodes: [&[&str]; 3] = [&["run", "auth"], &["run", "catalog"], &["run", "order"]];
    let (settings, anonymous, processes) =
        start(&folder, BrokerKind::RabbitMq, &collector.url, &nodes).await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201); // the events of both have arrived
    // The next order's event is consumed in a batch of its own.
    admin.until_stock(&teapot, 9).await;
    let (id, traceparent) = trace(1);
    order(&admin, &teapot, &traceparent).await.expect(201);

    let path_to = async |end| eventually(async || collector.path_to(&id, end)).await;
    let stored = path_to("shop-order: with placed as").await;
    let expected = [
        "shop-order: POST /order",
        "shop-order: orders",
        "shop-order: place orders",
        "shop-order: with placed as",
    ];
    assert_names(&stored, &expected);
    let published = path_to("shop-order: publish stock.moved").await;
    assert_names(&published, &[&expected[..2], &["shop-order: publish stock.moved"]].concat());
    let moved = path_to("shop-catalog: with fresh as").await;
    let on_the_catalog = [
        "shop-catalog: consume stock.moved",
        "shop-catalog: catalog",
        "shop-catalog: with fresh as",
    ];
    let expected =
        [&expected[..2], &["shop-order: publish stock.moved"], &on_the_catalog[..]].concat();
    assert_names(&moved, &expected);

    let [request, .., publish, consume, _, sql] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!(request.text("http.request.method"), "POST");
    assert_eq!(request.text("http.route"), "/order");
    assert_eq!(request.text("http.response.status_code"), "201");
    assert_eq!(request.text("request.id"), "tea");
    assert_eq!(consume.text("messaging.system"), "rabbitmq");
    assert_eq!(consume.text("messaging.destination.name"), "stock.moved");
    assert_eq!(consume.text("messaging.message.id"), publish.text("messaging.message.id"));
    assert!(sql.text("db.query.text").contains("insert into stock_movements"));
    for pair in moved.windows(2) {
        assert!(pair[0].span.start_time_unix_nano <= pair[1].span.start_time_unix_nano);
    }
    assert_eq!(
        moved
            .iter()
            .find(|step| step.span.status.as_ref().is_some_and(|s| s.code == 2))
            .map(ServiceSpan::name),
        None
    );

    // The reason why a message is refused is in its trace too.
    let (id, traceparent) = trace(2);
    let mut publisher = settings
        .foreign_broker(RabbitMq::shared().await.unwrap().port())
        .publisher()
        .await
        .unwrap();
    let traceparent = Some(traceparent);
    let invalid = Message { traceparent, ..message("product.created", Some(1), b"{}") };
    publisher.publish(1, invalid).await.unwrap();
    publisher.confirmed().await.unwrap();
    let refused = eventually(async || collector.path_to(&id, "shop-order: consume")).await;
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
/// Checks that the names of the spans start with these texts.
fn assert_names(path: &[ServiceSpan], expected: &[&str]) {
    let names = names(path);
    let matches = |(name, start): (&String, &&str)| name.starts_with(start);
    assert!(
        names.len() == expected.len() && names.iter().zip(expected).all(matches),
        "{names:?} is not {expected:?}"
    );
}

/// The line of a JSON log with this message.
fn line(process: &Process, message: &str) -> Result<Value, String> {
    let log = process.stderr();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == message).ok_or(format!("'{message}' is not in {log}"))
}

#[tokio::test]
async fn orders_of_one_transaction_keep_their_own_traces() {
    let folder = Folder::new("shop-traces").unwrap();
    let collector = Collector::start().await;
    let (_, anonymous, mut processes) =
        start(&folder, BrokerKind::Bus, &collector.url, &[&["run"]]).await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(5, 1_000_000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut numbers = 100_u32..;
    // Repeated until two orders share a transaction.
    let (place, others) = eventually(async || {
        let traces: Vec<_> = numbers.by_ref().take(16).map(trace).collect();
        let place = async |traceparent| order(&admin, &teapot, traceparent).await.expect(201);
        join_all(traces.iter().map(|(_, traceparent)| place(traceparent))).await;
        for (id, _) in &traces {
            let moved = async || collector.path_to(id, "shop: consume stock.moved");
            let expected = [
                "shop: POST /order",
                "shop: orders",
                "shop: publish stock.moved",
                "shop: consume stock.moved",
            ];
            assert_names(&eventually(moved).await, &expected);
        }
        let spans = traces.iter().flat_map(|(id, _)| collector.trace(id));
        let places: Vec<_> = spans.filter(|span| span.span.name == "place orders").collect();
        assert_eq!(places.iter().map(orders).sum::<usize>(), traces.len());
        let shared =
            places.into_iter().find(|place| orders(place) > 1).ok_or("each order was alone")?;
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

/// The number of orders in a transaction.
fn orders(place: &ServiceSpan) -> usize {
    place.text("shop.orders").parse().unwrap()
}

#[tokio::test]
async fn a_log_line_of_an_actor_has_the_ids_of_request_and_trace() {
    let folder = Folder::new("shop-lines").unwrap();
    let (settings, anonymous, mut processes) =
        start(&folder, BrokerKind::Bus, "", &[&["run"]]).await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(5, 10).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut holder = settings.database(Node::Order).await;
    let hold = "begin; select from products for update";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let (id, traceparent) = trace(6);
    order(&admin, &teapot, &traceparent).await.expect(503);
    let message = "query failed because the database is unavailable"; // the lock timed out
    let line = eventually(async || line(&processes[0], message)).await;
    assert_eq!(line["span"]["request.id"], "tea", "{line}");
    assert_eq!(line["span"]["trace.id"], json!(id), "{line}");
    drop(holder);
    assert!(processes.remove(0).stop().await.success());
}

#[tokio::test]
async fn an_unreachable_collector_is_logged_once_and_delays_no_request() {
    let folder = Folder::new("shop-no-collector").unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    check_no_delay(&folder, &url).await;
}

#[tokio::test]
async fn a_hanging_collector_is_logged_once_and_delays_no_request() {
    let folder = Folder::new("shop-hanging-collector").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts no connection
    let url = format!("http://{}", listener.local_addr().unwrap());
    check_no_delay(&folder, &url).await;
}

async fn check_no_delay(folder: &Folder, collector: &str) {
    let (_, anonymous, mut processes) =
        start(folder, BrokerKind::Bus, collector, &[&["run"]]).await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let message = "exporting spans fails; spans are dropped until the collector accepts them again";
    eventually(async || line(&processes[0], message)).await;
    let since = Instant::now();
    for _ in 0..50 {
        admin.order(&[(&teapot, 1)]).await.expect(201);
    }
    assert!(since.elapsed() < Duration::from_secs(20), "it took {:?}", since.elapsed());
    let process = processes.remove(0);
    assert_eq!(process.stderr().matches(message).count(), 1);
    assert!(process.stop().await.success());
}
