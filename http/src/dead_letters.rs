//! Dead letters: what an administrator sees of them, redrives and drops.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::Deserialize;
use shop_actors::Addr;
use shop_actors::dead_letters::Msg;
use shop_persistence::dead_letters::{DeadLetter, DeadLetterId, Page, Place};
use shop_persistence::{Invalid, Note};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{NoBody, Path, Query};
use crate::callers::Admin;
use crate::idempotency::{Change, Changed, KeyHeader};
use crate::problem::{Problem, Result};

/// The routes of a node's dead letters.
pub fn routes(letters: Addr<Msg>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(find, drop))
        .routes(routes!(redrive))
        .with_state(letters)
}

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only those of this queue.
    #[param(example = "product.created")]
    queue: Option<String>,
    /// At most so many; without it the list is whole.
    #[serde(default)]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Limit,
    /// Where the page begins, as the header `Link` of the page before says.
    #[param(value_type = Option<String>)]
    cursor: Option<Place>,
}

/// How many things a page may hold.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Limit(i64);

impl Default for Limit {
    fn default() -> Limit {
        Limit(i64::MAX - 1)
    }
}

impl TryFrom<i64> for Limit {
    type Error = Invalid;

    fn try_from(limit: i64) -> Result<Limit, Invalid> {
        Invalid::unless_within(limit, 1..=1000).map(Limit)
    }
}

/// The link to the page behind this one, if there is one.
type Next = Option<[(HeaderName, String); 1]>;

/// Messages that could not be applied, the oldest first.
///
/// When there are more, the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/admin/dead-letters", tag = "operations", params(Which),
    responses((status = 200, body = Vec<DeadLetter>), (status = "default", response = Problem))
)]
async fn list(
    State(letters): State<Addr<Msg>>,
    _: Admin,
    Query(Which { queue, limit: Limit(limit), cursor }): Query<Which>,
) -> Result<(Next, Answer<Vec<DeadLetter>>)> {
    // One more than asked for says whether there is a next page.
    let page = Page { queue: queue.clone(), after: cursor, limit: limit + 1 };
    let mut page = letters.ask((), |reply| Msg::List(page, reply)).await?;
    let more = page.len() as i64 > limit;
    page.truncate(limit as usize);
    let last = page.last().filter(|_| more);
    let next = last.map(|last| {
        let queue = queue.map(|_| format!("&queue={}", last.queue)).unwrap_or_default();
        let cursor = last.place();
        let next = format!("/admin/dead-letters?limit={limit}{queue}&cursor={cursor}");
        [(header::LINK, format!("<{next}>; rel=\"next\""))]
    });
    Ok((next, Answer(page)))
}

/// One of them.
#[utoipa::path(
    get, path = "/admin/dead-letters/{id}", tag = "operations", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DeadLetter), (status = "default", response = Problem))
)]
async fn find(
    State(letters): State<Addr<Msg>>,
    _: Admin,
    Path(id): Path<DeadLetterId>,
) -> Result<Answer<DeadLetter>> {
    Ok(Answer(letters.ask((), |reply| Msg::Find(id, reply)).await?))
}

/// Tries it again, once its cause is gone.
///
/// It is applied, and no dead letter any more; or it still cannot be: then 409 says why, and it stays.
#[utoipa::path(
    post, path = "/admin/dead-letters/{id}/redrive", tag = "operations",
    params(("id" = uuid::Uuid, Path), KeyHeader),
    responses((status = 200, body = Note), (status = "default", response = Problem))
)]
async fn redrive(
    State(letters): State<Addr<Msg>>,
    _: Admin,
    Path(id): Path<DeadLetterId>,
    Change(named, NoBody): Change<NoBody>,
) -> Result<Changed<Note>> {
    let once = named.once(StatusCode::OK);
    let redrive = |reply| Msg::Redrive(id, once, reply);
    Ok(Changed(StatusCode::OK, letters.ask((), redrive).await?))
}

/// Forgets it for ever.
#[utoipa::path(
    delete, path = "/admin/dead-letters/{id}", tag = "operations",
    params(("id" = uuid::Uuid, Path), KeyHeader),
    responses((status = 200, body = Note), (status = "default", response = Problem))
)]
async fn drop(
    State(letters): State<Addr<Msg>>,
    _: Admin,
    Path(id): Path<DeadLetterId>,
    Change(named, NoBody): Change<NoBody>,
) -> Result<Changed<Note>> {
    let once = named.once(StatusCode::OK);
    let drop = |reply| Msg::Drop(id, once, reply);
    Ok(Changed(StatusCode::OK, letters.ask((), drop).await?))
}
