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
use shop_actors::{Addr, Handled, Metrics, Service};
use shop_persistence::{Error, Trace};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use crate::problem::Failure;
use crate::{Api, Books, Gate, Keys, Vitals, books, dead_letters, docs, operations};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How much a node takes on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// Requests being worked on; more are refused. Health and metrics do not count.
    pub in_flight: usize,
}

/// Answers HTTP requests on a listener.
#[derive(Debug)]
pub struct Edge {
    /// Bound once by the node, so that the port outlives this edge.
    pub listener: TcpListener,
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
    async fn run(self, stop: CancellationToken) -> Handled {
        let Edge { listener, api, letters, gate, keys, books, vitals, limits, doors } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let listener = listener.tap_io(|stream| {
            stream.set_nodelay(true).ok(); // an answer is written whole
        });
        let routes = api.routes().merge(dead_letters::routes(letters)).merge(books::routes(books));
        let app = MapRequestLayer::new(without_trailing_slash)
            .layer(app(routes, gate, keys, vitals, limits));
        let app = ServiceExt::<Request>::into_make_service(app);
        let (closing, stopped) = (doors.closing.clone(), stop.clone());
        let closed = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = stopped.cancelled() => {}
            }
        };
        let serving = axum::serve(listener, app).with_graceful_shutdown(closed);
        doors.open.track_future(serving.into_future()).await?;
        stop.cancelled().await;
        Ok(())
    }
}

/// Everything that a node answers.
fn app(routes: OpenApiRouter, gate: Gate, keys: Keys, vitals: Vitals, limits: Limits) -> Router {
    let node = vitals.node;
    let metrics = vitals.metrics.clone();
    let (work, paths) = routes.split_for_parts();
    let room = Arc::new(Semaphore::new(limits.in_flight));
    let work = work.layer(Extension(Arc::new(gate))).layer(Extension(keys));
    let work = work.layer(from_fn_with_state(room, shed));
    Router::new()
        .merge(operations::routes(vitals))
        .merge(docs::routes(docs::of(node).merge_from(paths)))
        .merge(work)
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

/// Refuses work past the limit at once, rather than queueing it without end.
async fn shed(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match room.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => Failure::from(Error::Overloaded("node".into())).into_response(),
    }
}

/// Gives every request an id and a trace, which its log lines and events carry, and counts it.
async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "none".to_owned());
    let trace = request.headers().get("traceparent");
    let trace = trace.and_then(|value| value.to_str().ok()?.parse().ok());
    let trace = trace.unwrap_or_else(Trace::start).step();
    let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
    metrics.in_flight.inc();
    let answer = async {
        let mut response = next.run(request).await;
        let took_ms = since.elapsed().as_secs_f64() * 1e3;
        let status = response.status().as_u16();
        tracing::debug!(%method, route, status, took_ms, "answered");
        response.headers_mut().insert(REQUEST_ID, id);
        response
    };
    let response = trace.scope(answer.instrument(span)).await;
    metrics.in_flight.dec();
    let method = known(&method);
    metrics.requests.with_label_values(&[&route, method, response.status().as_str()]).inc();
    let seconds = metrics.request_seconds.with_label_values(&[&route, method]);
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
