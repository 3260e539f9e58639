//! The HTTP server of a node: its listener, its routes and its shutdown.

use std::future::IntoFuture;
use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use axum::{Router, ServiceExt};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Addr, HandlerResult, Service};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::util::MapRequestLayer;

use crate::actors::Actors;
use crate::auth::{Access, Authenticator};
use crate::context::{Idempotency, Limits};
use crate::middleware::{Common, ConcurrencyLimit, RouteGroup, handle};
use crate::problem::Failure;
use crate::{
    Api, Cluster, Health, SnapshotApi, actors, admin_page, audit, cluster, dead_letters, docs,
    health, snapshot,
};

/// The maximum number of requests in flight on the administrators' routes. They have a limit of
/// their own, so that they are served while the API is overloaded.
const MAX_ADMIN_IN_FLIGHT: usize = 128;

/// The same for the administrators' sign-in. Anyone may call it, so it does not share their limit.
const MAX_SIGN_IN_IN_FLIGHT: usize = 32;

/// Serves HTTP requests on a listener.
#[derive(Debug, Clone)]
pub struct HttpServer {
    /// Bound once by the node, so that the port stays bound when the server restarts.
    pub listener: Arc<TcpListener>,
    /// The routes of the node's API.
    pub api: Api,
    /// The actor that stores dead letters.
    pub letters: Addr<shop_actors::dead_letters::Msg>,
    /// Authenticates callers.
    pub authenticator: Authenticator,
    /// How repeated requests are recognised.
    pub idempotency: Idempotency,
    /// The node's snapshot, for the other nodes.
    pub snapshot: SnapshotApi,
    /// The actor that records what administrators do.
    pub audit: Addr<shop_actors::audit::Msg>,
    /// The other nodes and replicas, for administrators.
    pub cluster: Cluster,
    /// The source of health and metrics.
    pub health: Health,
    /// Limits of size and number.
    pub limits: Limits,
    /// Closes the server before the actors behind it are stopped.
    pub shutdown: Shutdown,
}

/// Closes all servers of a process, while the actors behind them still run.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    closing: CancellationToken,
    open: TaskTracker,
}

impl Shutdown {
    /// Accepts no more requests, and waits until those in flight have their responses.
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
            stream.set_nodelay(true).ok(); // a response is written in one piece
        });
        // Ends the streams too, which would keep their connections open.
        let closing = shutdown.closing.child_token();
        // However this server ends, its connections end with it: a restarted server has new routes.
        let _closes = closing.clone().drop_guard();
        let app =
            MapRequestLayer::new(without_trailing_slash).layer(app(self, actor_metrics, &closing));
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

/// All routes of a node.
fn app(
    server: HttpServer,
    actor_metrics: Arc<ActorMetrics>,
    closing: &CancellationToken,
) -> Router {
    let HttpServer { api, letters, snapshot, audit, cluster, health, limits, .. } = server;
    let HttpServer { authenticator, idempotency, .. } = server;
    let inspector = Actors::new(&health, &audit, &authenticator, closing);
    let sign_in = cluster::sign_in_routes(cluster.clone());
    let admin = [
        actors::routes(inspector),
        audit::routes(audit),
        cluster::routes(cluster, closing.clone()),
        dead_letters::routes(letters),
        snapshot::routes(snapshot),
    ];
    let node = health.node;
    let metrics = health.metrics.clone();
    let common = Arc::new(Common { authenticator, limits, idempotency, metrics });
    let group = |access, concurrency: &Arc<ConcurrencyLimit>| {
        let (concurrency, common) = (concurrency.clone(), common.clone());
        from_fn_with_state(Arc::new(RouteGroup { access, concurrency, common }), handle)
    };
    let mut app = Router::new();
    let mut document = docs::of(node);
    for (limit, routes) in [
        (ConcurrencyLimit::new(limits.in_flight, Some(actor_metrics)), api.routes()),
        (ConcurrencyLimit::new(MAX_ADMIN_IN_FLIGHT, None), admin.into_iter().flatten().collect()),
        (ConcurrencyLimit::new(MAX_SIGN_IN_IN_FLIGHT, None), sign_in),
    ] {
        let limit = Arc::new(limit);
        for (access, routes) in routes {
            let (routes, paths) = routes.split_for_parts();
            document.merge(paths);
            app = app.merge(routes.layer(group(access, &limit)));
        }
    }
    let open = group(Access::Anyone, &Arc::default());
    let unlimited = health::routes(health)
        .merge(docs::routes(document))
        .merge(admin_page::routes())
        .fallback(not_found)
        .layer(open.clone());
    // After the layers above: a method that a route does not have is refused before authentication.
    app.merge(unlimited).method_not_allowed_fallback(method_not_allowed.layer(open))
}

/// `/api/v1/users/` is the same as `/api/v1/users`. Only the documentation's page is in a folder.
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

async fn not_found(uri: Uri) -> Failure {
    let detail = format!("there is no {}; see /docs", uri.path());
    Failure::new(StatusCode::NOT_FOUND, detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    let detail = format!("{} has no method {method}; see /docs", uri.path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
