//! The edge: a listener, what happens to every request on its way in and out, and the end in good order.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Extension, Router, ServiceExt};
use futures::FutureExt;
use shop_actors::Metrics;
use shop_persistence::Error;
use shop_runtime::registry::{ActorMetrics, ProcessingGuard, QueueGuard};
use shop_runtime::{Addr, HandlerResult, Service, Span, SpanContext, SpanKind, TaskContext};
use tokio::sync::Semaphore;
use tokio::time::Instant as Moment;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::util::MapRequestLayer;
use uuid::Uuid;

use crate::actors::Actors;
use crate::problem::Failure;
use crate::{
    Api, Authenticator, Cluster, Health, Idempotency, SnapshotApi, actors, admin_page, audit,
    cluster, dead_letters, docs, health, snapshot,
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
pub struct RequestId(pub Arc<str>);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<RequestId, Infallible> {
        Ok(RequestId(
            TaskContext::current().and_then(|context| context.request_id).unwrap_or_default(),
        ))
    }
}

/// What requests are held against.
#[derive(Debug)]
pub struct RequestContext {
    /// Whose token is good.
    pub authenticator: Authenticator,
    /// How requests that name themselves are told from each other.
    pub idempotency: Idempotency,
    /// How large a body may be.
    pub body_limit: DefaultBodyLimit,
}

impl RequestContext {
    /// Those of the edge that a request came in by.
    pub fn of(parts: &Parts) -> Result<Arc<RequestContext>, Error> {
        let checks = parts.extensions.get::<Arc<RequestContext>>().cloned();
        checks.ok_or_else(|| Error::Internal("no checks in front of this route".into()))
    }

    /// Has the body of a request break off where it becomes too large. One that was made up here has none.
    pub fn limit(request: &mut Request) {
        let limit =
            request.extensions().get::<Arc<RequestContext>>().map(|checks| checks.body_limit);
        limit.into_iter().for_each(|limit| limit.apply(request));
    }
}

/// Answers HTTP requests on a listener.
#[derive(Debug, Clone)]
pub struct HttpServer {
    /// Bound once by the node, so that the port outlives this edge.
    pub listener: Arc<TcpListener>,
    /// What clients may call.
    pub api: Api,
    /// Who owns the messages that could not be applied.
    pub letters: Addr<shop_actors::dead_letters::Msg>,
    /// Whose token is good.
    pub authenticator: Authenticator,
    /// How requests that name themselves are told from each other.
    pub idempotency: Idempotency,
    /// What the node shows of its database.
    pub snapshot: SnapshotApi,
    /// Who writes down what administrators do.
    pub audit: Addr<shop_actors::audit::Msg>,
    /// The other nodes and replicas, for administrators.
    pub cluster: Cluster,
    /// What health and metrics are read from.
    pub vitals: Health,
    /// How much is taken on at once.
    pub limits: Limits,
    /// Closes it before the actors behind it are stopped.
    pub shutdown: Shutdown,
}

/// Closes all edges of a shop at once, while everything behind them still works.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    closing: CancellationToken,
    open: TaskTracker,
}

impl Shutdown {
    /// Takes no more requests, and waits until those in flight are answered.
    pub async fn close(&self) {
        self.closing.cancel();
        self.open.close();
        self.open.wait().await;
    }
}

impl Service for HttpServer {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let HttpServer { listener, shutdown, .. } = &self;
        let (listener, shutdown) = (listener.try_clone()?, shutdown.clone());
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let listener = listener.tap_io(|stream| {
            stream.set_nodelay(true).ok(); // an answer is written whole
        });
        // Whoever watches would hold the doors open.
        let closing = shutdown.closing.child_token();
        // However this edge ends, its connections end with it: the next one stands before other owners.
        let _closes = closing.clone().drop_guard();
        let (authenticator, idempotency) = (self.authenticator.clone(), self.idempotency.clone());
        let body_limit = DefaultBodyLimit::max(self.limits.body_bytes);
        let checks = RequestContext { authenticator, idempotency, body_limit };
        // Around the router and not on its routes: there a layer is boxed, and cloned with all that are under it, for
        // every request.
        let app = Extension(Arc::new(checks)).layer(app(self, actor_metrics, &closing));
        let app = MapRequestLayer::new(without_trailing_slash).layer(app);
        let app = ServiceExt::<Request>::into_make_service(app);
        let stopped = stop.clone();
        let closed = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = stopped.cancelled() => closing.cancel(),
            }
        };
        let serving = axum::serve(listener, app).with_graceful_shutdown(closed);
        shutdown.open.track_future(serving.into_future()).await?;
        stop.cancelled().await;
        Ok(())
    }
}

/// Everything that a node answers.
fn app(edge: HttpServer, actor_metrics: Arc<ActorMetrics>, closing: &CancellationToken) -> Router {
    let HttpServer { api, letters, snapshot, audit, cluster, vitals, limits, .. } = edge;
    let (node, metrics) = (vitals.node, vitals.metrics.clone());
    let watched =
        Actors::new(vitals.registry.clone(), audit.clone(), vitals.clone(), closing.clone());
    let admin = actors::routes(watched)
        .merge(audit::routes(audit))
        .merge(cluster::routes(cluster.clone(), closing.clone()))
        .merge(dead_letters::routes(letters))
        .merge(snapshot::routes(snapshot));
    let (work, paths) = api.routes().split_for_parts();
    let (admin, admin_paths) = admin.split_for_parts();
    let (door, door_paths) = cluster::door(cluster).split_for_parts();
    let documented =
        docs::of(node).merge_from(paths).merge_from(admin_paths).merge_from(door_paths);
    let open = health::routes(vitals).merge(docs::routes(documented)).merge(admin_page::routes());
    let through = |routes: Router,
                   permits: Option<usize>,
                   actor_metrics: Option<Arc<ActorMetrics>>| {
        let permits = permits.map(Semaphore::new);
        let room = Arc::new(ConcurrencyLimit { metrics: metrics.clone(), permits, actor_metrics });
        routes.method_not_allowed_fallback(wrong_method).layer(from_fn_with_state(room, pass))
    };
    through(open.fallback(nowhere), None, None)
        .merge(through(work, Some(limits.in_flight), Some(actor_metrics)))
        .merge(through(admin, Some(ADMIN_IN_FLIGHT), None))
        .merge(through(door, Some(DOOR_IN_FLIGHT), None))
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

/// What all requests to a group of routes pass through.
struct ConcurrencyLimit {
    metrics: Metrics,
    /// For so many at once; any number when nothing is said.
    permits: Option<Semaphore>,
    /// What measures them.
    actor_metrics: Option<Arc<ActorMetrics>>,
}

/// Gives every request an id and a trace, which its log lines and events carry, and counts it.
async fn pass(State(room): State<Arc<ConcurrencyLimit>>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let id = request_id(&request);
    let shown_id = id.to_str().unwrap_or_default();
    let method = known(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    let caller = request.headers().get("traceparent");
    let caller = caller.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut span = Span::start(caller, SpanKind::Server, format_args!("{method} {route}"));
    span.set("http.request.method", method);
    span.set("http.route", route);
    span.set("request.id", shown_id);
    let counted = room.metrics.counts_requests.then(|| InFlight::begin(&room.metrics));
    let context = TaskContext { span: span.context(), request_id: Some(shown_id.into()) };
    let answer = async {
        let response = AssertUnwindSafe(room.answer(method, request, next)).catch_unwind().await;
        let mut response = response.unwrap_or_else(|panic| panicked(&*panic));
        let (status, took) = (response.status(), since.elapsed());
        tracing::debug!(
            method,
            route,
            status = status.as_u16(),
            took_ms = took.as_secs_f64() * 1e3,
            "answered"
        );
        if let Some(counted) = counted {
            counted.answered(route, method, status, took);
        }
        response.headers_mut().insert(REQUEST_ID, id.clone());
        response
    };
    let response = context.scope(answer).await;
    span.set("http.response.status_code", i64::from(response.status().as_u16()));
    match response.status() {
        status if status.is_server_error() => span.fail(status),
        _ => span.finish(),
    }
    response
}

impl ConcurrencyLimit {
    /// Refuses work past the limit at once, rather than queueing it without end.
    async fn answer(&self, method: &'static str, request: Request, next: Next) -> Response {
        let now = Moment::now();
        let guard =
            self.actor_metrics.as_ref().map(|actor_metrics| actor_metrics.enqueued(now, None));
        let place = self.permits.as_ref().map(Semaphore::try_acquire).transpose();
        let Ok(_place) = place else {
            guard.into_iter().for_each(QueueGuard::reject);
            return Failure::from(Error::Overloaded("node".into())).into_response();
        };
        let measured = guard.map(|guard| guard.open(method, SpanContext::current(), now));
        let response = next.run(request).await;
        measured.into_iter().for_each(ProcessingGuard::done);
        response
    }
}

/// A request that is being worked on: until its answer, or until its client has left.
struct InFlight<'m>(&'m Metrics);

impl InFlight<'_> {
    fn begin(metrics: &Metrics) -> InFlight<'_> {
        metrics.in_flight.inc();
        InFlight(metrics)
    }

    fn answered(self, route: &str, method: &str, status: StatusCode, took: Duration) {
        self.0.requests.with_label_values(&[route, method, status.as_str()]).inc();
        let seconds = self.0.request_seconds.with_label_values(&[route, method]);
        seconds.observe(took.as_secs_f64());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
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
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
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

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    Failure::from(Error::Internal(text.to_owned().into())).into_response()
}
