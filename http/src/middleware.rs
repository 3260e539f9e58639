//! What every request passes through: a request id, a span, metrics, the limit of requests in
//! flight, and authentication. It is one layer per group of routes, because each layer of a route
//! is boxed and cloned for every request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use shop_actors::Error;
use shop_actors::Metrics;
use shop_runtime::registry::{ActorMetrics, ProcessingGuard};
use shop_runtime::{Span, SpanContext, SpanKind, TaskContext};
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::auth::{Access, Authenticator};
use crate::context::{Idempotency, Limits, RequestContext};
use crate::problem::Failure;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a caller's request id, in bytes.
const MAX_REQUEST_ID_LEN: usize = 128;

/// What all groups of routes of a server have in common.
#[derive(Debug)]
pub struct Common {
    /// Authenticates the callers.
    pub authenticator: Authenticator,
    /// For the context of each request.
    pub limits: Limits,
    /// For the context of each request.
    pub idempotency: Idempotency,
    /// Counts and measures the requests.
    pub metrics: Metrics,
}

/// A group of routes: who may call them, and how many requests may be in flight.
#[derive(Debug)]
pub struct RouteGroup {
    /// Who may call them.
    pub access: Access,
    /// Shared with other groups that use the same capacity.
    pub concurrency: Arc<ConcurrencyLimit>,
    /// Shared with all other groups.
    pub common: Arc<Common>,
}

/// Handles a request to a group of routes.
pub async fn handle(
    State(group): State<Arc<RouteGroup>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let id_text: Arc<str> = id.to_str().unwrap_or_default().into();
    let method = method_label(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    let parent = request.headers().get("traceparent");
    let parent = parent.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut span = Span::start(parent, SpanKind::Server, format_args!("{method} {route}"));
    span.set("http.request.method", method);
    span.set("http.route", route);
    span.set("request.id", &*id_text);
    let metrics = &group.common.metrics;
    let in_flight = metrics.counts_requests.then(|| InFlight::begin(metrics));
    let context = TaskContext { span: span.context(), request_id: Some(id_text.clone()) };
    let respond = async {
        let response = group.respond(method, id_text, request, next);
        let response = AssertUnwindSafe(response).catch_unwind().await;
        let mut response = response.unwrap_or_else(|panic| panicked(&*panic));
        let (status, latency) = (response.status(), started.elapsed());
        tracing::debug!(
            method,
            route,
            status = status.as_u16(),
            latency_ms = latency.as_secs_f64() * 1e3,
            "responded"
        );
        if let Some(in_flight) = in_flight {
            in_flight.finish(route, method, status, latency);
        }
        response.headers_mut().insert(REQUEST_ID, id);
        response
    };
    let response = context.scope(respond).await;
    span.set("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.fail(response.status());
    } else {
        span.finish();
    }
    response
}

impl RouteGroup {
    /// Takes a permit, authenticates the caller, and runs the handler.
    async fn respond(
        &self,
        method: &'static str,
        id: Arc<str>,
        mut request: Request,
        next: Next,
    ) -> Response {
        let Some(permit) = self.concurrency.acquire(method) else {
            return Failure::from(Error::Overloaded("node".into())).into_response();
        };
        let is_read = request.method().is_safe();
        let Common { authenticator, limits, idempotency, .. } = &*self.common;
        let caller = authenticator.authenticate(self.access, request.headers(), is_read).await;
        let response = match caller {
            Ok(caller) => {
                let (limits, idempotency) = (*limits, idempotency.clone());
                let context = RequestContext { id, caller, limits, idempotency };
                request.extensions_mut().insert(context);
                next.run(request).await
            }
            Err(error) => Failure::from(error).into_response(),
        };
        permit.release();
        response
    }
}

/// Limits the requests in flight. More are refused at once rather than queued.
#[derive(Debug, Default)]
pub struct ConcurrencyLimit {
    /// One permit per request; `None` for no limit.
    permits: Option<Semaphore>,
    /// Measures the requests, if it is the limit of the API.
    actor_metrics: Option<Arc<ActorMetrics>>,
}

impl ConcurrencyLimit {
    /// A limit of `max` requests in flight.
    pub fn new(max: usize, actor_metrics: Option<Arc<ActorMetrics>>) -> ConcurrencyLimit {
        ConcurrencyLimit { permits: Some(Semaphore::new(max)), actor_metrics }
    }

    fn acquire(&self, method: &'static str) -> Option<Permit<'_>> {
        let now = tokio::time::Instant::now();
        let queued = self.actor_metrics.as_ref().map(|metrics| metrics.enqueued(now, None));
        match self.permits.as_ref().map(Semaphore::try_acquire).transpose() {
            Ok(permit) => {
                let processing =
                    queued.map(|guard| guard.open(method, SpanContext::current(), now));
                Some(Permit { _permit: permit, processing })
            }
            Err(_) => {
                if let Some(queued) = queued {
                    queued.reject();
                }
                None
            }
        }
    }
}

/// The right to handle a request. A dropped one counts as an aborted request.
struct Permit<'l> {
    _permit: Option<SemaphorePermit<'l>>,
    processing: Option<ProcessingGuard>,
}

impl Permit<'_> {
    fn release(self) {
        if let Some(processing) = self.processing {
            processing.done();
        }
    }
}

/// A request in flight: until its response, or until its client has disconnected.
struct InFlight<'m>(&'m Metrics);

impl InFlight<'_> {
    fn begin(metrics: &Metrics) -> InFlight<'_> {
        metrics.in_flight.inc();
        InFlight(metrics)
    }

    fn finish(self, route: &str, method: &str, status: StatusCode, latency: Duration) {
        self.0.requests.with_label_values(&[route, method, status.as_str()]).inc();
        let seconds = self.0.request_seconds.with_label_values(&[route, method]);
        seconds.observe(latency.as_secs_f64());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// The method as a metric label. Clients can invent methods; they cannot invent labels.
fn method_label(method: &Method) -> &'static str {
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

/// The caller's request id if it is valid, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let valid = |id: &&HeaderValue| {
        let character = |c: &u8| c.is_ascii_alphanumeric() || b"-_.:".contains(c);
        (1..=MAX_REQUEST_ID_LEN).contains(&id.len()) && id.as_bytes().iter().all(character)
    };
    request.headers().get(REQUEST_ID).filter(valid).cloned().unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
    })
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Failure::from(Error::Internal(text.to_owned().into())).into_response()
}
