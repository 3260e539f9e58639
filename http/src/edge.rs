//! The edge: a listener, what happens to every request on its way in and out, and the end in good order.

use std::future::IntoFuture;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Extension, Router, ServiceExt};
use shop_actors::inspector::{Handling, Probe, Ticket};
use shop_actors::{Addr, Handled, Metrics, Service};
use shop_persistence::{Error, Kind, Step, Trace};
use tokio::sync::Semaphore;
use tokio::time::Instant as Moment;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use crate::actors::Actors;
use crate::problem::Failure;
use crate::{
    Api, Books, Cluster, Gate, Keys, Vitals, actors, audit, books, cluster, dead_letters, docs,
    operations, page,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How much a node takes on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// Requests being worked on; more are refused. Health, metrics and what administrators ask do not count.
    pub in_flight: usize,
}

/// What administrators ask has room of its own.
const ADMIN_IN_FLIGHT: usize = 128;

/// So has whoever signs in to ask: anybody may, and must not be in their way.
const DOOR_IN_FLIGHT: usize = 32;

/// The id that a request's log lines carry.
#[derive(Debug, Clone)]
pub struct RequestId(pub HeaderValue);

/// Answers HTTP requests on a listener.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Bound once by the node, so that the port outlives this edge.
    pub listener: Arc<TcpListener>,
    /// What clients may call.
    pub api: Api,
    /// Who owns the messages that could not be applied.
    pub letters: Addr<shop_actors::dead_letters::Msg>,
    /// Whose token is good.
    pub gate: Gate,
    /// How requests that name themselves are told from each other.
    pub keys: Keys,
    /// What the node shows of its database.
    pub books: Books,
    /// Who writes down what administrators do.
    pub audit: Addr<shop_actors::audit::Msg>,
    /// The other nodes and replicas, for administrators.
    pub cluster: Cluster,
    /// What health and metrics are read from.
    pub vitals: Vitals,
    /// How much is taken on at once.
    pub limits: Limits,
    /// Closes it before the actors behind it are stopped.
    pub doors: Doors,
}

/// Closes all edges of a shop at once, while everything behind them still works.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    closing: CancellationToken,
    open: TaskTracker,
}

impl Doors {
    /// Takes no more requests, and waits until those in flight are answered.
    pub async fn close(&self) {
        self.closing.cancel();
        self.open.close();
        self.open.wait().await;
    }
}

impl Service for Edge {
    async fn run(self, probe: Arc<Probe>, stop: CancellationToken) -> Handled {
        let Edge { listener, doors, .. } = &self;
        let (listener, doors) = (listener.try_clone()?, doors.clone());
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let listener = listener.tap_io(|stream| {
            stream.set_nodelay(true).ok(); // an answer is written whole
        });
        // Whoever watches would hold the doors open.
        let closing = doors.closing.child_token();
        // However this edge ends, its connections end with it: the next one stands before other owners.
        let _closes = closing.clone().drop_guard();
        let app = MapRequestLayer::new(without_trailing_slash).layer(app(self, probe, &closing));
        let app = ServiceExt::<Request>::into_make_service(app);
        let stopped = stop.clone();
        let closed = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = stopped.cancelled() => closing.cancel(),
            }
        };
        let serving = axum::serve(listener, app).with_graceful_shutdown(closed);
        doors.open.track_future(serving.into_future()).await?;
        stop.cancelled().await;
        Ok(())
    }
}

/// Everything that a node answers.
fn app(edge: Edge, probe: Arc<Probe>, closing: &CancellationToken) -> Router {
    let Edge { api, letters, gate, keys, books, audit, cluster, vitals, limits, .. } = edge;
    let (node, metrics) = (vitals.node, vitals.metrics.clone());
    let watched =
        Actors::new(vitals.inspector.clone(), audit.clone(), vitals.clone(), closing.clone());
    let admin = actors::routes(watched)
        .merge(audit::routes(audit))
        .merge(cluster::routes(cluster.clone(), closing.clone()))
        .merge(dead_letters::routes(letters))
        .merge(books::routes(books));
    let (work, paths) = api.routes().split_for_parts();
    let (admin, admin_paths) = admin.split_for_parts();
    let room = Room { places: Arc::new(Semaphore::new(limits.in_flight)), probe: Some(probe) };
    let (door, door_paths) = cluster::door(cluster).split_for_parts();
    let door_room = Room { places: Arc::new(Semaphore::new(DOOR_IN_FLIGHT)), probe: None };
    let admin_room = Room { places: Arc::new(Semaphore::new(ADMIN_IN_FLIGHT)), probe: None };
    let asked = work
        .layer(from_fn_with_state(room, shed))
        .merge(admin.layer(from_fn_with_state(admin_room, shed)))
        .merge(door.layer(from_fn_with_state(door_room, shed)))
        .layer(Extension(Arc::new(gate)))
        .layer(Extension(keys));
    let documented =
        docs::of(node).merge_from(paths).merge_from(admin_paths).merge_from(door_paths);
    Router::new()
        .merge(operations::routes(vitals))
        .merge(docs::routes(documented))
        .merge(page::routes())
        .merge(asked)
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(metrics, observe))
}

/// `/api/v1/users/` is `/api/v1/users`. The documentation's page alone lies in a folder.
fn without_trailing_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() || trimmed == "/docs" {
        return request;
    }
    let trimmed = match request.uri().query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    if let Ok(path_and_query) = trimmed.parse() {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.path_and_query = Some(path_and_query);
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    request
}

/// Room for so many requests at once.
#[derive(Clone)]
struct Room {
    places: Arc<Semaphore>,
    /// What measures them.
    probe: Option<Arc<Probe>>,
}

/// Refuses work past the limit at once, rather than queueing it without end.
async fn shed(State(room): State<Room>, request: Request, next: Next) -> Response {
    let now = Moment::now();
    let ticket = room.probe.as_ref().map(|probe| probe.arrive(now, None));
    let Ok(_place) = room.places.try_acquire() else {
        ticket.into_iter().for_each(Ticket::reject);
        return Failure::from(Error::Overloaded("node".into())).into_response();
    };
    let method = known(request.method());
    let measured = ticket.map(|ticket| ticket.open(method, Trace::current(), now));
    let response = next.run(request).await;
    measured.into_iter().for_each(Handling::done);
    response
}

/// Gives every request an id and a trace, which its log lines and events carry, and counts it.
async fn observe(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let since = Instant::now();
    let id = request_id(&request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    let caller = request.headers().get("traceparent");
    let caller = caller.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut step = Step::begin(caller, Kind::Server, format_args!("{} {route}", known(&method)));
    let shown_id = id.to_str().unwrap_or_default();
    step.set("http.request.method", known(&method));
    step.set("http.route", route);
    step.set("request.id", shown_id);
    // Of the highest level: whatever lines are wanted, they say whose they are.
    let trace = step.trace();
    let span = tracing::error_span!("request", request.id = shown_id, trace.id = %trace.shown_id());
    if metrics.counts_requests {
        metrics.in_flight.inc();
    }
    let answer = async {
        let mut response = next.run(request).await;
        let took_ms = since.elapsed().as_secs_f64() * 1e3;
        let status = response.status().as_u16();
        tracing::debug!(%method, route, status, took_ms, "answered");
        response.headers_mut().insert(REQUEST_ID, id);
        response
    };
    let response = trace.scope(answer.instrument(span)).await;
    let status = response.status();
    step.set("http.response.status_code", i64::from(status.as_u16()));
    match status.is_server_error() {
        true => step.fail(status),
        false => step.done(),
    }
    if !metrics.counts_requests {
        return response;
    }
    metrics.in_flight.dec();
    let method = known(&method);
    metrics.requests.with_label_values(&[route, method, response.status().as_str()]).inc();
    let seconds = metrics.request_seconds.with_label_values(&[route, method]);
    seconds.observe(since.elapsed().as_secs_f64());
    response
}

/// Anybody can make up methods; they must not make up labels.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The caller's own id, when it is a sane one.
fn request_id(request: &Request) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        let character = |c: &u8| c.is_ascii_alphanumeric() || b"-_.:".contains(c);
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(character)
    };
    request.headers().get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
    })
}

async fn nowhere(uri: Uri) -> Failure {
    let detail = format!("nothing is at {}; /docs lists what there is", uri.path());
    Failure::new(StatusCode::NOT_FOUND, detail)
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let detail = format!("{method} is not for {}; /docs lists what is", uri.path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    Failure::from(Error::Bug(text.to_owned().into())).into_response()
}
