//! The actors of a node: how they fare, live, and what administrators do with them. The inspector's API.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing;
use deserr::Deserr;
use futures::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shop_actors::audit;
use shop_persistence::audit::{AdminAction, AuditEntry};
use shop_persistence::{Error, InvalidValue};
use shop_runtime::registry::{
    ActorRegistry, ActorView, ControlAction, Details, History, Sort, Tree,
};
use shop_runtime::{Addr, now};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Authenticator, Routes, bearer};
use crate::body::{BrokenRules, OrEmpty, Path, Query};
use crate::context::{Authenticated, RequestContext};
use crate::health::{Health, NodeState};
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::pages::{Limit, link};
use crate::problem::{Failure, Problem, Result};

/// At most so many watch the stream at once.
const WATCHERS: usize = 64;

/// How many seconds pass before a watcher's token is looked at again.
const TRUSTED_TICKS: u64 = 10;

/// What the routes read and steer.
#[derive(Debug, Clone)]
pub struct Actors {
    /// What this node shows of its process.
    pub registry: ActorRegistry,
    /// Who writes down what is done.
    pub audit: Addr<audit::Msg>,
    /// The rest of what the node tells of itself.
    pub vitals: Health,
    /// Ends the streams.
    pub closing: CancellationToken,
    authenticator: Authenticator,
    watchers: Arc<Semaphore>,
}

impl Actors {
    /// The actors that this inspector shows.
    pub fn new(
        health: &Health,
        audit: &Addr<audit::Msg>,
        authenticator: &Authenticator,
        closing: &CancellationToken,
    ) -> Actors {
        Actors {
            registry: health.registry.clone(),
            audit: audit.clone(),
            vitals: health.clone(),
            closing: closing.clone(),
            authenticator: authenticator.clone(),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
        }
    }
}

/// What lies below a path with slashes, which the router and the documentation write in two ways.
#[derive(OpenApi)]
#[openapi(paths(find, act))]
struct Below;

/// The routes of a node's actors.
pub fn routes(actors: Actors) -> Routes {
    let admin = OpenApiRouter::with_openapi(Below::openapi())
        .routes(routes!(list))
        .routes(routes!(stream))
        .routes(routes!(history))
        .routes(routes!(node))
        .route("/admin/actors/{*path}", routing::get(find).post(act));
    vec![(Access::Admin, admin.with_state(actors))]
}

/// Which actors to list, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// A list instead of the tree; also when one of the following is given.
    flat: Option<bool>,
    /// What the list is sorted by: figures from the highest, paths from A.
    #[param(inline)]
    sort: Option<Sort>,
    /// At most so many; without it the list is whole.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// Where the page begins, as the header `Link` of the page before says.
    #[param(value_type = Option<String>)]
    cursor: Option<Place>,
}

/// Where an actor stands in a sorted list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Place {
    figure: f64,
    path: String,
}

impl Place {
    fn of(actor: &ActorView, sort: Sort) -> Place {
        Place { figure: sort.key(actor), path: actor.path.clone() }
    }

    /// Figures from the highest, and of those that are alike paths from A.
    fn compare(&self, other: &Place) -> Ordering {
        other.figure.total_cmp(&self.figure).then_with(|| self.path.cmp(&other.path))
    }
}

impl TryFrom<String> for Place {
    type Error = InvalidValue;

    fn try_from(cursor: String) -> Result<Place, InvalidValue> {
        let (figure, path) = cursor.split_once('~').unwrap_or_default();
        match figure.parse() {
            Ok(figure) => Ok(Place { figure, path: path.to_owned() }),
            Err(_) => Err(InvalidValue("is not a cursor that a page gave".into())),
        }
    }
}

/// The tree, or a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Shown {
    Tree(Box<Tree>),
    List(Vec<ActorView>),
}

/// The link to the page behind this one, if there is one.
type Next = Option<[(HeaderName, String); 1]>;

/// The actors of this node, and those of its process that belong to no node: their tree, or a list.
#[utoipa::path(
    get, path = "/admin/actors", tag = "operations", params(Which),
    responses((status = 200, body = Shown), (status = "default", response = Problem))
)]
async fn list(
    State(actors): State<Actors>,
    Query(which): Query<Which>,
) -> Result<(Next, Answer<Shown>)> {
    let Which { flat, sort, limit, cursor } = which;
    if !flat.unwrap_or(sort.is_some() || limit.is_some() || cursor.is_some()) {
        return Ok((None, Answer(Shown::Tree(Box::new(actors.registry.tree()?)))));
    }
    let (page, next) = page(actors.registry.actors(), sort.unwrap_or_default(), limit, cursor);
    let next = next.map(|cursor| {
        let (limit, cursor) = (page.len(), format!("{}~{}", cursor.figure, cursor.path));
        let sort = sort.unwrap_or_default();
        let next = format!("/admin/actors?flat=true&sort={sort}&limit={limit}&cursor={cursor}");
        [(header::LINK, link(&next))]
    });
    Ok((next, Answer(Shown::List(page))))
}

/// A page of a sorted list, and where the next one begins, if there is one.
fn page(
    actors: Vec<ActorView>,
    sort: Sort,
    limit: Option<Limit>,
    after: Option<Place>,
) -> (Vec<ActorView>, Option<Place>) {
    let mut placed: Vec<_> =
        actors.into_iter().map(|actor| (Place::of(&actor, sort), actor)).collect();
    placed.sort_by(|(one, _), (other, _)| one.compare(other));
    if let Some(after) = after {
        placed.retain(|(place, _)| place.compare(&after) == Ordering::Greater);
    }
    let limit = limit.map_or(usize::MAX, Limit::get);
    let next = (placed.len() > limit).then(|| placed[limit - 1].0.clone());
    (placed.into_iter().take(limit).map(|(_, actor)| actor).collect(), next)
}

/// All that is known of one actor.
#[utoipa::path(
    get, path = "/admin/actors/{path}", tag = "operations",
    params(("path" = String, Path, description = "with its slashes", example = "shop/order/http")),
    responses((status = 200, body = Details), (status = "default", response = Problem))
)]
async fn find(State(actors): State<Actors>, Path(path): Path<String>) -> Result<Answer<Details>> {
    Ok(Answer(actors.registry.details(path.trim_matches('/')).await?))
}

/// Why something is done.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct Why {
    /// 1 to 500 characters; only `resume` needs none.
    #[deserr(default, try_from(Option<String>) = some_reason -> InvalidValue)]
    #[schema(value_type = Option<String>, max_length = 500, example = "stuck for a minute")]
    reason: Option<String>,
}

fn some_reason(text: Option<String>) -> Result<Option<String>, InvalidValue> {
    let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let long = text.as_ref().is_some_and(|text| text.chars().count() > 500);
    let unreadable = text.as_ref().is_some_and(|text| text.chars().any(char::is_control));
    match long || unreadable {
        true => Err(InvalidValue("must be 1 to 500 characters, without control characters".into())),
        false => Ok(text),
    }
}

/// Restarts, pauses, resumes or drains an actor.
///
/// It is written into the audit log first, and done then: 202 says that the actor's supervisor was told.
#[utoipa::path(
    post, path = "/admin/actors/{path}/{action}", tag = "operations",
    params(
        ("path" = String, Path, description = "with its slashes", example = "shop/order/relay"),
        ("action" = ControlAction, Path),
        KeyHeader
    ),
    request_body = Why,
    responses((status = 202, body = AuditEntry), (status = "default", response = Problem))
)]
async fn act(
    State(actors): State<Actors>,
    Authenticated(caller): Authenticated,
    context: RequestContext,
    Path(path): Path<String>,
    Idempotent(named, OrEmpty(Why { reason })): Idempotent<OrEmpty<Why>>,
) -> Result<IdempotentResponse<AuditEntry>> {
    let path = path.trim_matches('/');
    let (path, action) = path.rsplit_once('/').unwrap_or((path, ""));
    let Ok(action) = ControlAction::from_str(action) else {
        let detail = "an actor can be told: restart, pause, resume or drain";
        return Err(Failure::new(StatusCode::NOT_FOUND, detail));
    };
    let actor_metrics = actors.registry.find(path)?;
    if reason.is_none() && action.is_destructive() {
        return Err(Error::invalid_field("reason", "is required: why is this done?").into());
    }
    let admin_action = AdminAction {
        user_id: caller.id,
        username: caller.username.to_string(),
        action: action.to_string(),
        actor: path.to_owned(),
        reason: reason.unwrap_or_default(),
        request_id: context.id.to_string(),
    };
    let (allowed, key) = (
        actor_metrics.check_allowed(action).map_err(Error::from),
        named.once(StatusCode::ACCEPTED),
    );
    let act = Box::new(audit::RecordAndApply { admin_action, actor_metrics, action, allowed });
    let act = |reply| audit::Msg::RecordAndApply(act, key, reply);
    Ok(IdempotentResponse(StatusCode::ACCEPTED, actors.audit.ask((), act).await?))
}

/// The last fifteen minutes of all actors.
#[derive(Debug, Serialize, ToSchema)]
struct Histories {
    /// How far apart the samples are.
    interval_seconds: u32,
    /// When the newest were taken.
    #[schema(value_type = String, format = DateTime)]
    ends_at: Timestamp,
    /// Of each actor, by its path: the newest last.
    #[schema(value_type = HashMap<String, History>)]
    actors: std::collections::BTreeMap<String, History>,
}

/// The last fifteen minutes of all actors, a sample a second.
#[utoipa::path(
    get, path = "/admin/history", tag = "operations",
    responses((status = 200, body = Histories), (status = "default", response = Problem))
)]
async fn history(State(actors): State<Actors>) -> Answer<Histories> {
    let actors = actors.registry.history();
    Answer(Histories { interval_seconds: 1, ends_at: now(), actors })
}

/// A node, with all its actors.
#[derive(Debug, Serialize, ToSchema)]
struct Node {
    #[serde(flatten)]
    state: NodeState,
    /// Its actors, by their paths.
    actors: Vec<ActorView>,
}

/// This node, what waits in its database, and its actors as a list.
#[utoipa::path(
    get, path = "/admin/node", tag = "operations",
    responses((status = 200, body = Node), (status = "default", response = Problem))
)]
async fn node(State(actors): State<Actors>) -> Answer<Node> {
    let state = actors.vitals.state().await;
    Answer(Node { state, actors: actors.registry.actors() })
}

/// Server-sent events: once a second those actors that changed, first of all every one.
#[utoipa::path(
    get, path = "/admin/actors/stream", tag = "operations",
    responses(
        (status = 200, body = Vec<ActorView>, content_type = "text/event-stream"),
        (status = "default", response = Problem)
    )
)]
async fn stream(State(actors): State<Actors>, headers: HeaderMap) -> Result<Response> {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    let place = actors.watchers.clone().try_acquire_owned();
    let place = place.map_err(|_| Error::Overloaded("stream of actors".into()))?;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        registry: actors.registry,
        authenticator: actors.authenticator,
        token,
        second,
        ticks: 0,
        hasher: RandomState::new(),
        seen: HashMap::new(),
        _place: place,
    };
    let closing = actors.closing.clone();
    let changes = futures::stream::unfold(watcher, move |mut watcher| {
        let closing = closing.clone();
        async move {
            let event = closing.run_until_cancelled(watcher.next()).await.flatten()?;
            Some((Ok::<_, Infallible>(event), watcher))
        }
    });
    Ok(events(changes))
}

/// Proxies must not hold events back.
fn events(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let headers =
        [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(events)).into_response()
}

/// Somebody who watches the actors change.
struct Watcher {
    registry: ActorRegistry,
    authenticator: Authenticator,
    token: String,
    second: Interval,
    ticks: u64,
    hasher: RandomState,
    /// What was sent last of each, as a hash.
    seen: HashMap<String, u64>,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// What changed within the next second; none when there is nobody to tell any more.
    async fn next(&mut self) -> Option<Event> {
        self.second.tick().await;
        self.ticks += 1;
        if self.ticks.is_multiple_of(TRUSTED_TICKS)
            && !self.authenticator.is_still_admin(&self.token).await
        {
            return None;
        }
        let mut changed = vec![];
        for actor in self.registry.actors() {
            let text = serde_json::to_string(&actor).ok()?;
            let hash = self.hasher.hash_one(&text);
            if self.seen.insert(actor.path, hash) != Some(hash) {
                changed.push(text);
            }
        }
        match changed.is_empty() {
            true => Some(Event::default().comment("nothing changed")),
            false => {
                Some(Event::default().event("actors").data(format!("[{}]", changed.join(","))))
            }
        }
    }
}
