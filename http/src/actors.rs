//! The inspector's API: the state of a node's actors, live, and their control by administrators.

use std::cmp::Ordering;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::Response;
use axum::routing;
use deserr::Deserr;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shop_actors::Error;
use shop_actors::audit;
use shop_persistence::InvalidValue;
use shop_persistence::audit::{AdminAction, AuditEntry};
use shop_runtime::registry::{
    ActorRegistry, ActorView, ControlAction, Details, History, Sort, Tree,
};
use shop_runtime::{Addr, now};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor_stream::ActorStream;
use crate::auth::{Access, Authenticator, Routes, bearer};
use crate::body::{Json, JsonOrEmpty, Path, Query, ValidationErrors};
use crate::context::{Authenticated, RequestContext};
use crate::health::{Health, NodeState};
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::pages::{Limit, link};
use crate::problem::{Failure, Problem, Result};

/// The maximum number of concurrent streams.
const MAX_STREAMS: usize = 64;

/// The maximum length of a reason, in characters.
const MAX_REASON_LEN: usize = 500;

/// What the routes use.
#[derive(Debug, Clone)]
pub struct Actors {
    registry: ActorRegistry,
    audit: Addr<audit::Msg>,
    health: Health,
    /// Ends the streams.
    closing: CancellationToken,
    authenticator: Authenticator,
    streams: Arc<Semaphore>,
}

impl Actors {
    /// The inspector of a node. Its streams end when the server is `closing`.
    pub fn new(
        health: &Health,
        audit: &Addr<audit::Msg>,
        authenticator: &Authenticator,
        closing: &CancellationToken,
    ) -> Actors {
        Actors {
            registry: health.registry.clone(),
            audit: audit.clone(),
            health: health.clone(),
            closing: closing.clone(),
            authenticator: authenticator.clone(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

/// Routes with an actor's path, whose slashes the router and OpenAPI write in different ways.
#[derive(OpenApi)]
#[openapi(paths(find_actor, control_actor))]
struct PathRoutes;

/// The routes of the inspector.
pub fn routes(actors: Actors) -> Routes {
    let admin = OpenApiRouter::with_openapi(PathRoutes::openapi())
        .routes(routes!(list_actors))
        .routes(routes!(stream_actors))
        .routes(routes!(actor_history))
        .routes(routes!(node_state))
        .route("/admin/actors/{*path}", routing::get(find_actor).post(control_actor));
    vec![(Access::Admin, admin.with_state(actors))]
}

/// The form and order of a list of actors.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ActorsQuery {
    /// Returns a list instead of the tree; the default if another parameter is given.
    flat: Option<bool>,
    /// The order of the list: metrics from the highest, paths from A.
    #[param(inline)]
    sort: Option<Sort>,
    /// The maximum number of entries; without it the list is whole.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// Where the page begins: the cursor in the header `Link` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// The position of an actor in a sorted list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Cursor {
    value: f64,
    path: String,
}

impl Cursor {
    fn of(actor: &ActorView, sort: Sort) -> Cursor {
        Cursor { value: sort.key(actor), path: actor.path.clone() }
    }

    /// From the highest value; equal values by path.
    fn compare(&self, other: &Cursor) -> Ordering {
        other.value.total_cmp(&self.value).then_with(|| self.path.cmp(&other.path))
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidValue;

    fn try_from(cursor: String) -> Result<Cursor, InvalidValue> {
        let (value, path) = cursor.split_once('~').unwrap_or_default();
        match value.parse() {
            Ok(value) => Ok(Cursor { value, path: path.to_owned() }),
            Err(_) => Err(InvalidValue("must be the cursor of a page".into())),
        }
    }
}

/// The tree, or a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ActorsResponse {
    Tree(Box<Tree>),
    List(Vec<ActorView>),
}

/// The link to the next page, if there is one.
type NextLink = Option<[(HeaderName, String); 1]>;

/// The actors of this node, and those of its process that belong to no node, as a tree or a list.
#[utoipa::path(
    get, path = "/admin/actors", tag = "operations", params(ActorsQuery),
    responses((status = 200, body = ActorsResponse), (status = "default", response = Problem))
)]
async fn list_actors(
    State(actors): State<Actors>,
    Query(query): Query<ActorsQuery>,
) -> Result<(NextLink, Json<ActorsResponse>)> {
    let ActorsQuery { flat, sort, limit, cursor } = query;
    if !flat.unwrap_or(sort.is_some() || limit.is_some() || cursor.is_some()) {
        return Ok((None, Json(ActorsResponse::Tree(Box::new(actors.registry.tree()?)))));
    }
    let (page, next) = page(actors.registry.actors(), sort.unwrap_or_default(), limit, cursor);
    let next = next.map(|cursor| {
        let (limit, cursor) = (page.len(), format!("{}~{}", cursor.value, cursor.path));
        let sort = sort.unwrap_or_default();
        let next = format!("/admin/actors?flat=true&sort={sort}&limit={limit}&cursor={cursor}");
        [(header::LINK, link(&next))]
    });
    Ok((next, Json(ActorsResponse::List(page))))
}

/// A page of the sorted list, and the cursor of the next page, if there is one.
fn page(
    actors: Vec<ActorView>,
    sort: Sort,
    limit: Option<Limit>,
    after: Option<Cursor>,
) -> (Vec<ActorView>, Option<Cursor>) {
    let mut sorted: Vec<_> =
        actors.into_iter().map(|actor| (Cursor::of(&actor, sort), actor)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.compare(b));
    if let Some(after) = after {
        sorted.retain(|(cursor, _)| cursor.compare(&after) == Ordering::Greater);
    }
    let limit = limit.map_or(usize::MAX, Limit::get);
    let next = (sorted.len() > limit).then(|| sorted[limit - 1].0.clone());
    (sorted.into_iter().take(limit).map(|(_, actor)| actor).collect(), next)
}

/// The details of one actor.
#[utoipa::path(
    get, path = "/admin/actors/{path}", tag = "operations",
    params(("path" = String, Path, description = "the actor's path, with its slashes", example = "shop/order/http")),
    responses((status = 200, body = Details), (status = "default", response = Problem))
)]
async fn find_actor(
    State(actors): State<Actors>,
    Path(path): Path<String>,
) -> Result<Json<Details>> {
    Ok(Json(actors.registry.details(path.trim_matches('/')).await?))
}

/// The reason for an action.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct ControlRequest {
    /// 1 to 500 characters; required except for `resume`.
    #[deserr(default, try_from(Option<String>) = valid_reason -> InvalidValue)]
    #[schema(value_type = Option<String>, max_length = 500, example = "stuck for a minute")]
    reason: Option<String>,
}

fn valid_reason(text: Option<String>) -> Result<Option<String>, InvalidValue> {
    let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let is_valid = text.as_ref().is_none_or(|text| {
        text.chars().count() <= MAX_REASON_LEN && !text.chars().any(char::is_control)
    });
    if is_valid {
        Ok(text)
    } else {
        Err(InvalidValue("must be 1 to 500 characters, without control characters".into()))
    }
}

/// Restarts, pauses, resumes or drains an actor.
///
/// The action is recorded in the audit log and then sent to the actor's supervisor; 202 does not
/// wait for its completion.
#[utoipa::path(
    post, path = "/admin/actors/{path}/{action}", tag = "operations",
    params(
        ("path" = String, Path, description = "the actor's path, with its slashes", example = "shop/order/relay"),
        ("action" = ControlAction, Path),
        KeyHeader
    ),
    request_body = ControlRequest,
    responses((status = 202, body = AuditEntry), (status = "default", response = Problem))
)]
async fn control_actor(
    State(actors): State<Actors>,
    Authenticated(caller): Authenticated,
    context: RequestContext,
    Path(path): Path<String>,
    Idempotent(key, JsonOrEmpty(ControlRequest { reason })): Idempotent<
        JsonOrEmpty<ControlRequest>,
    >,
) -> Result<IdempotentResponse<AuditEntry>> {
    let path = path.trim_matches('/');
    let (path, action) = path.rsplit_once('/').unwrap_or((path, ""));
    let Ok(action) = ControlAction::from_str(action) else {
        let detail = "the actions are restart, pause, resume and drain";
        return Err(Failure::new(StatusCode::NOT_FOUND, detail));
    };
    let actor_metrics = actors.registry.find(path)?;
    if reason.is_none() && action.is_destructive() {
        return Err(Error::invalid_field("reason", "is required").into());
    }
    let admin_action = AdminAction {
        user_id: caller.id,
        username: caller.username.to_string(),
        action: action.to_string(),
        actor: path.to_owned(),
        reason: reason.unwrap_or_default(),
        request_id: context.id.to_string(),
    };
    let allowed = actor_metrics.check_allowed(action).map_err(Error::from);
    let key = key.with_success(StatusCode::ACCEPTED);
    let act = Box::new(audit::RecordAndApply { admin_action, actor_metrics, action, allowed });
    let act = |reply| audit::Msg::RecordAndApply(act, key, reply);
    Ok(IdempotentResponse(StatusCode::ACCEPTED, actors.audit.ask((), act).await?))
}

/// The last fifteen minutes of all actors.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryResponse {
    /// The interval between two samples, in seconds.
    interval_seconds: u32,
    /// The time of the newest sample.
    #[schema(value_type = String, format = DateTime)]
    ends_at: Timestamp,
    /// The samples by actor path, the newest last.
    #[schema(value_type = HashMap<String, History>)]
    actors: std::collections::BTreeMap<String, History>,
}

/// The last fifteen minutes of all actors, with one sample per second.
#[utoipa::path(
    get, path = "/admin/history", tag = "operations",
    responses((status = 200, body = HistoryResponse), (status = "default", response = Problem))
)]
async fn actor_history(State(actors): State<Actors>) -> Json<HistoryResponse> {
    let actors = actors.registry.history();
    Json(HistoryResponse { interval_seconds: 1, ends_at: now(), actors })
}

/// A node with its actors.
#[derive(Debug, Serialize, ToSchema)]
struct NodeResponse {
    #[serde(flatten)]
    state: NodeState,
    /// The actors, by path.
    actors: Vec<ActorView>,
}

/// The state of this node, its outbox and dead letters, and its actors as a list.
#[utoipa::path(
    get, path = "/admin/node", tag = "operations",
    responses((status = 200, body = NodeResponse), (status = "default", response = Problem))
)]
async fn node_state(State(actors): State<Actors>) -> Json<NodeResponse> {
    let state = actors.health.state().await;
    Json(NodeResponse { state, actors: actors.registry.actors() })
}

/// Server-sent events: every second the actors that changed. The first event has all actors.
#[utoipa::path(
    get, path = "/admin/actors/stream", tag = "operations",
    responses(
        (status = 200, body = Vec<ActorView>, content_type = "text/event-stream"),
        (status = "default", response = Problem)
    )
)]
async fn stream_actors(State(actors): State<Actors>, headers: HeaderMap) -> Result<Response> {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    let permit = actors.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Error::Overloaded("stream of actors".into()))?;
    let stream = ActorStream::new(actors.registry, actors.authenticator, token, permit);
    Ok(stream.into_response(actors.closing))
}
