//! The cluster: all nodes and replicas, as one of them sees the others. Whoever asks, asks the others with the same token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use futures::StreamExt;
use futures::future::join_all;
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;
use shop_persistence::Error;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::body::{Path, read};
use crate::client;
use crate::context::RequestContext;
use crate::problem::{Failure, Problem, Result};

/// How long a node may take to tell how it fares.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to do what an administrator wants.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// The nodes that are shown together, and where to sign in.
#[derive(Debug, Clone)]
pub struct Cluster {
    peers: Arc<[Peer]>,
    sign_in_url: String,
    client: reqwest::Client,
    closing: CancellationToken,
}

/// A node or replica.
#[derive(Debug, Clone)]
struct Peer {
    /// How it is named: host and port.
    name: String,
    url: String,
}

impl Cluster {
    /// The nodes at these addresses; administrators sign in at `auth_url`.
    pub fn new(urls: &[String], auth_url: &str) -> Result<Cluster, String> {
        let mut peers: Vec<Peer> = vec![];
        for url in urls {
            let peer = Peer::at(url)?;
            if peers.iter().all(|known| known.name != peer.name) {
                peers.push(peer);
            }
        }
        let client = reqwest::Client::builder().connect_timeout(PATIENCE / 2).no_proxy().build();
        let sign_in_url = format!("{}/api/v1/auth/login", auth_url.trim_end_matches('/'));
        let client = client.map_err(|error| error.to_string())?;
        let closing = CancellationToken::new();
        Ok(Cluster { peers: peers.into(), sign_in_url, client, closing })
    }

    fn peer(&self, name: &str) -> Result<&Peer, Error> {
        let found = self.peers.iter().find(|peer| peer.name == name);
        found.ok_or(Error::NotFound("node: GET /admin/cluster/actors names them"))
    }
}

impl Peer {
    fn at(url: &str) -> Result<Peer, String> {
        let parsed = Url::parse(url).map_err(|error| format!("{url:?} is no address: {error}"))?;
        let host = parsed.host_str().ok_or_else(|| format!("{url:?} names no host"))?;
        let port = parsed.port_or_known_default().unwrap_or_default();
        Ok(Peer { name: format!("{host}:{port}"), url: url.trim_end_matches('/').to_owned() })
    }
}

/// What lies below a path with slashes, which the router and the documentation write in two ways.
#[derive(OpenApi)]
#[openapi(paths(look, pass_on))]
struct Below;

/// Where to sign in, from any node: open to all.
pub fn sign_in_routes(cluster: Cluster) -> Routes {
    vec![(Access::Anyone, OpenApiRouter::new().routes(routes!(sign_in)).with_state(cluster))]
}

/// The routes of the cluster, the same on every node. A stream that is passed on ends when the edge is `closing`.
pub fn routes(cluster: Cluster, closing: CancellationToken) -> Routes {
    let cluster = Cluster { closing, ..cluster };
    let admin = OpenApiRouter::with_openapi(Below::openapi())
        .routes(routes!(actors))
        .route("/admin/cluster/{peer}/{*path}", routing::get(look).post(pass_on));
    vec![(Access::Admin, admin.with_state(cluster))]
}

/// A node or replica of the cluster.
#[derive(Debug, Serialize, ToSchema)]
struct Member {
    /// What it is called here: host and port.
    #[schema(example = "127.0.0.1:8002")]
    peer: String,
    /// Where it is.
    #[schema(example = "http://127.0.0.1:8002")]
    url: String,
    /// Whether it told how it fares.
    reachable: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What it told: as `GET /admin/node`.
    #[serde(flatten)]
    node: serde_json::Map<String, Value>,
}

/// All nodes and replicas with their actors, asked at the same time; one that is away is shown as unreachable.
#[utoipa::path(
    get, path = "/admin/cluster/actors", tag = "operations",
    responses((status = 200, body = Vec<Member>), (status = "default", response = Problem))
)]
async fn actors(State(cluster): State<Cluster>, request: Request) -> Answer<Vec<Member>> {
    let token = request.headers().get(header::AUTHORIZATION).cloned();
    let asked = cluster.peers.iter().map(|peer| ask(&cluster, peer, token.clone()));
    Answer(join_all(asked).await)
}

/// Asks a node how it fares.
async fn ask(cluster: &Cluster, peer: &Peer, token: Option<HeaderValue>) -> Member {
    let request = cluster.client.get(format!("{}/admin/node", peer.url)).timeout(PATIENCE);
    let request = match token {
        Some(token) => request.header(header::AUTHORIZATION, token),
        None => request,
    };
    let told = async {
        let answer = client::send(request, format!("ask {}", peer.name)).await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>(match status {
            StatusCode::OK => Ok(answer.json().await?),
            status => Err(format!("answers {status}")),
        })
    };
    let told = told.await.unwrap_or_else(|error| Err(why(&error)));
    let (node, detail) = match told {
        Ok(node) => (node, None),
        Err(detail) => (serde_json::Map::new(), Some(detail)),
    };
    let reachable = detail.is_none();
    Member { peer: peer.name.clone(), url: peer.url.clone(), reachable, detail, node }
}

/// Why a node did not answer, in words.
fn why(error: &reqwest::Error) -> String {
    match error {
        error if error.is_timeout() => {
            format!("does not answer within {} s", PATIENCE.as_secs())
        }
        error if error.is_connect() => "nothing listens there".to_owned(),
        error if error.is_decode() => "sent what cannot be read".to_owned(),
        _ => "broke off".to_owned(),
    }
}

/// What a node tells of itself: an actor, its stream, its history or its audit log.
#[utoipa::path(
    get, path = "/admin/cluster/{peer}/{path}", tag = "operations",
    params(
        ("peer" = String, Path, example = "127.0.0.1:8002"),
        ("path" = String, Path, description = "as behind /admin/ there", example = "history")
    ),
    responses((status = 200), (status = "default", response = Problem))
)]
async fn look(
    State(cluster): State<Cluster>,
    context: RequestContext,
    Path((peer, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response> {
    forward(&cluster, &peer, &path, &context.id, request).await
}

/// Has a node do something with one of its actors.
#[utoipa::path(
    post, path = "/admin/cluster/{peer}/{path}", tag = "operations",
    params(
        ("peer" = String, Path, example = "127.0.0.1:8002"),
        ("path" = String, Path, example = "actors/shop/order/relay/restart")
    ),
    responses((status = 202), (status = "default", response = Problem))
)]
async fn pass_on(
    State(cluster): State<Cluster>,
    context: RequestContext,
    Path((peer, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response> {
    forward(&cluster, &peer, &path, &context.id, request).await
}

/// What is passed on of a request, besides its body.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")];

/// What is passed back of an answer, besides its body.
const ANSWER_HEADERS: [HeaderName; 6] = [
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
    let peer = cluster.peer(peer)?;
    let known = ["actors", "history", "audit", "node"];
    if !path.starts_with("actors/") && !known.contains(&path) {
        let detail = "of a node there is: actors/…, history, audit and node";
        return Err(Failure::new(StatusCode::NOT_FOUND, detail));
    }
    let mut url = Url::parse(&peer.url).map_err(|error| Error::Internal(error.into()))?;
    let segments = url.path_segments_mut();
    let mut segments = segments.map_err(|()| Error::Internal("no base for a path".into()))?;
    segments.pop_if_empty().push("admin").extend(path.split('/'));
    drop(segments);
    url.set_query(request.uri().query());
    let mut onward = cluster.client.request(request.method().clone(), url);
    for name in REQUEST_HEADERS {
        if let Some(value) = request.headers().get(&name) {
            onward = onward.header(name, value);
        }
    }
    onward = onward.header("x-request-id", request_id);
    if path != "actors/stream" {
        onward = onward.timeout(LONG_PATIENCE);
    }
    let body = read(request, &()).await?;
    let answer = client::send(onward.body(body), format!("ask {}", peer.name)).await;
    let mut response = passed_back(answer, &peer.name, &cluster.closing)?;
    // The next page is asked for on the same way.
    let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
    let link =
        link.map(|link| link.replace("</admin/", &format!("</admin/cluster/{}/", peer.name)));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// An answer of another node, as it came.
fn passed_back(
    answer: reqwest::Result<reqwest::Response>,
    node: &str,
    closing: &CancellationToken,
) -> Result<Response, Error> {
    let answer = answer.map_err(|error| {
        tracing::debug!(%error, node, "a node does not answer");
        Error::Unavailable(format!("the node at {node} does not answer").into())
    })?;
    let mut response = answer.status().into_response();
    for name in ANSWER_HEADERS {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() =
        Body::from_stream(answer.bytes_stream().take_until(closing.clone().cancelled_owned()));
    Ok(response)
}

/// Signs in on the auth node, from whichever node: as `POST /api/v1/auth/login` there.
#[utoipa::path(
    post, path = "/admin/sign-in", tag = "operations", security(()),
    responses((status = 200), (status = "default", response = Problem))
)]
async fn sign_in(
    State(cluster): State<Cluster>,
    context: RequestContext,
    request: Request,
) -> Result<Response> {
    let mut onward = cluster.client.post(&cluster.sign_in_url).timeout(LONG_PATIENCE);
    if let Some(value) = request.headers().get(header::CONTENT_TYPE) {
        onward = onward.header(header::CONTENT_TYPE, value);
    }
    let body = read(request, &()).await?;
    let onward = onward.header("x-request-id", &*context.id).body(body);
    let answer = client::send(onward, "sign in").await;
    Ok(passed_back(answer, &cluster.sign_in_url, &cluster.closing)?)
}
