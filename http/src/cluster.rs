//! The cluster: all nodes and replicas as one node sees them. Administrators' requests to the
//! others are forwarded with the administrator's token.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use futures::StreamExt;
use futures::future::join_all;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Map, Value};
use shop_actors::Error;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::body::{Json, Path, read_body};
use crate::client;
use crate::context::RequestContext;
use crate::problem::{Failure, Problem, Result};

/// How long a node may take to send its state.
const STATE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take for a forwarded request.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(15);

/// The nodes and replicas of a shop, and the address of the sign-in.
#[derive(Debug, Clone)]
pub struct Cluster {
    members: Arc<[Address]>,
    sign_in_url: String,
    client: reqwest::Client,
    closing: CancellationToken,
}

/// The address of a node or replica.
#[derive(Debug, Clone)]
struct Address {
    /// Its name in paths and responses: host and port.
    name: String,
    url: String,
}

impl Cluster {
    /// The nodes at these addresses. Administrators sign in at `auth_url`.
    ///
    /// # Errors
    /// If an address is not valid, or the HTTP client cannot be built.
    pub fn new(urls: &[String], auth_url: &str) -> Result<Cluster, String> {
        let mut members: Vec<Address> = vec![];
        for url in urls {
            let address = Address::parse(url)?;
            if members.iter().all(|known| known.name != address.name) {
                members.push(address);
            }
        }
        let client =
            reqwest::Client::builder().connect_timeout(STATE_TIMEOUT / 2).no_proxy().build();
        let sign_in_url = format!("{}/api/v1/auth/login", auth_url.trim_end_matches('/'));
        let client = client.map_err(|error| error.to_string())?;
        let closing = CancellationToken::new();
        Ok(Cluster { members: members.into(), sign_in_url, client, closing })
    }

    fn member(&self, name: &str) -> Result<&Address, Error> {
        let found = self.members.iter().find(|member| member.name == name);
        found.ok_or(Error::NotFound("node: GET /admin/cluster/actors lists them"))
    }
}

impl Address {
    fn parse(url: &str) -> Result<Address, String> {
        let parsed = Url::parse(url).map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let host = parsed.host_str().ok_or_else(|| format!("{url:?} has no host"))?;
        let port = parsed.port_or_known_default().unwrap_or_default();
        Ok(Address { name: format!("{host}:{port}"), url: url.trim_end_matches('/').to_owned() })
    }
}

/// Routes with a forwarded path, whose slashes the router and OpenAPI write in different ways.
#[derive(OpenApi)]
#[openapi(paths(forward_get, forward_post))]
struct PathRoutes;

/// The sign-in, which every node offers.
pub fn sign_in_routes(cluster: Cluster) -> Routes {
    vec![(Access::Anyone, OpenApiRouter::new().routes(routes!(sign_in)).with_state(cluster))]
}

/// The routes of the cluster, the same on every node. Forwarded streams end when the server is
/// `closing`.
pub fn routes(cluster: Cluster, closing: CancellationToken) -> Routes {
    let cluster = Cluster { closing, ..cluster };
    let admin = OpenApiRouter::with_openapi(PathRoutes::openapi())
        .routes(routes!(list_cluster))
        .route("/admin/cluster/{peer}/{*path}", routing::get(forward_get).post(forward_post));
    vec![(Access::Admin, admin.with_state(cluster))]
}

/// A node or replica of the cluster.
#[derive(Debug, Serialize, ToSchema)]
struct ClusterMember {
    /// Its name: host and port.
    #[schema(example = "127.0.0.1:8002")]
    peer: String,
    /// Its address.
    #[schema(example = "http://127.0.0.1:8002")]
    url: String,
    /// Whether it sent its state.
    reachable: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Its state, as in `GET /admin/node`.
    #[serde(flatten)]
    node: Map<String, Value>,
}

/// All nodes and replicas with their actors, requested concurrently.
///
/// Members that do not respond are listed with `"reachable": false`.
#[utoipa::path(
    get, path = "/admin/cluster/actors", tag = "operations",
    responses((status = 200, body = Vec<ClusterMember>), (status = "default", response = Problem))
)]
async fn list_cluster(
    State(cluster): State<Cluster>,
    request: Request,
) -> Json<Vec<ClusterMember>> {
    let token = request.headers().get(header::AUTHORIZATION).cloned();
    let states = cluster.members.iter().map(|member| read_state(&cluster, member, token.clone()));
    Json(join_all(states).await)
}

async fn read_state(
    cluster: &Cluster,
    member: &Address,
    token: Option<HeaderValue>,
) -> ClusterMember {
    let Address { name, url } = member.clone();
    let mut request = cluster.client.get(format!("{url}/admin/node")).timeout(STATE_TIMEOUT);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let state = async {
        let response = client::send(request, format!("GET {name}/admin/node")).await?;
        Ok(match response.status() {
            StatusCode::OK => Ok(response.json().await?),
            status => Err(format!("responds {status}")),
        })
    };
    let (node, detail) = match state.await.unwrap_or_else(|error| Err(describe(&error))) {
        Ok(node) => (node, None),
        Err(detail) => (Map::new(), Some(detail)),
    };
    ClusterMember { peer: name, url, reachable: detail.is_none(), detail, node }
}

/// Why a node sent no state.
fn describe(error: &reqwest::Error) -> String {
    match error {
        error if error.is_timeout() => {
            format!("does not respond within {} s", STATE_TIMEOUT.as_secs())
        }
        error if error.is_connect() => "refuses the connection".to_owned(),
        error if error.is_decode() => "sent an invalid response".to_owned(),
        _ => "closed the connection".to_owned(),
    }
}

/// Forwards a read to a node: an actor, the stream, the history, the audit log or the state.
#[utoipa::path(
    get, path = "/admin/cluster/{peer}/{path}", tag = "operations",
    params(
        ("peer" = String, Path, example = "127.0.0.1:8002"),
        ("path" = String, Path, description = "the path below /admin/", example = "history")
    ),
    responses((status = 200), (status = "default", response = Problem))
)]
async fn forward_get(
    State(cluster): State<Cluster>,
    context: RequestContext,
    Path((peer, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response> {
    forward(&cluster, &peer, &path, &context.id, request).await
}

/// Forwards an action on an actor to its node.
#[utoipa::path(
    post, path = "/admin/cluster/{peer}/{path}", tag = "operations",
    params(
        ("peer" = String, Path, example = "127.0.0.1:8002"),
        ("path" = String, Path, example = "actors/shop/order/broker/relay/restart")
    ),
    responses((status = 202), (status = "default", response = Problem))
)]
async fn forward_post(
    State(cluster): State<Cluster>,
    context: RequestContext,
    Path((peer, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response> {
    forward(&cluster, &peer, &path, &context.id, request).await
}

/// The headers of a request that are forwarded.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")];

/// The headers of a response that are passed on to the client.
const RESPONSE_HEADERS: [HeaderName; 6] = [
    header::LINK,
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    header::CACHE_CONTROL,
    HeaderName::from_static("idempotency-replayed"),
];

async fn forward(
    cluster: &Cluster,
    peer: &str,
    path: &str,
    request_id: &str,
    request: Request,
) -> Result<Response> {
    let Address { name, url } = cluster.member(peer)?;
    if !path.starts_with("actors/") && !["actors", "history", "audit", "node"].contains(&path) {
        let detail = "the paths of a node are actors/…, history, audit and node";
        return Err(Failure::new(StatusCode::NOT_FOUND, detail));
    }
    let mut url = Url::parse(url).map_err(|error| Error::Internal(error.into()))?;
    let segments = url.path_segments_mut();
    let mut segments = segments.map_err(|()| Error::Internal("the URL has no path".into()))?;
    segments.pop_if_empty().push("admin").extend(path.split('/'));
    drop(segments);
    url.set_query(request.uri().query());
    let mut forwarded = cluster.client.request(request.method().clone(), url);
    for header in REQUEST_HEADERS {
        if let Some(value) = request.headers().get(&header) {
            forwarded = forwarded.header(header, value);
        }
    }
    forwarded = forwarded.header("x-request-id", request_id);
    if path != "actors/stream" {
        forwarded = forwarded.timeout(FORWARD_TIMEOUT);
    }
    let span = format!("{} {name}", request.method());
    let body = read_body(request, &()).await?;
    let response = client::send(forwarded.body(body), span).await;
    let mut response = pass_on(response, name, &cluster.closing)?;
    // The link to the next page leads through this node as well.
    let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
    let link = link.map(|link| link.replace("</admin/", &format!("</admin/cluster/{name}/")));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Passes the response of another node on to the client, as a stream.
fn pass_on(
    response: reqwest::Result<reqwest::Response>,
    node: &str,
    closing: &CancellationToken,
) -> Result<Response, Error> {
    let upstream = response.map_err(|error| {
        tracing::debug!(%error, node, "a node does not respond");
        Error::Unavailable(format!("the node at {node} does not respond").into())
    })?;
    let mut response = upstream.status().into_response();
    for header in RESPONSE_HEADERS {
        if let Some(value) = upstream.headers().get(&header) {
            response.headers_mut().insert(header, value.clone());
        }
    }
    let body = upstream.bytes_stream().take_until(closing.clone().cancelled_owned());
    *response.body_mut() = Body::from_stream(body);
    Ok(response)
}

/// Signs in on the auth node, as `POST /api/v1/auth/login` there.
#[utoipa::path(
    post, path = "/admin/sign-in", tag = "operations", security(()),
    responses((status = 200), (status = "default", response = Problem))
)]
async fn sign_in(
    State(cluster): State<Cluster>,
    context: RequestContext,
    request: Request,
) -> Result<Response> {
    let mut forwarded = cluster.client.post(&cluster.sign_in_url).timeout(FORWARD_TIMEOUT);
    if let Some(value) = request.headers().get(header::CONTENT_TYPE) {
        forwarded = forwarded.header(header::CONTENT_TYPE, value);
    }
    let body = read_body(request, &()).await?;
    let forwarded = forwarded.header("x-request-id", &*context.id).body(body);
    let response = client::send(forwarded, "POST /api/v1/auth/login").await;
    Ok(pass_on(response, &cluster.sign_in_url, &cluster.closing)?)
}
