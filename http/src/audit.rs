//! The audit log: what administrators did with the actors of this node.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderName, header};
use serde::Deserialize;
use shop_actors::Addr;
use shop_actors::audit::Msg;
use shop_persistence::audit::Entry;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actors::Limit;
use crate::body::Query;
use crate::callers::Admin;
use crate::problem::{Problem, Result};

/// The route of a node's audit log.
pub fn routes(audit: Addr<Msg>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list)).with_state(audit)
}

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// At most so many; without it the list is whole.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// Where the page begins, as the header `Link` of the page before says.
    cursor: Option<i64>,
}

/// The link to the page behind this one, if there is one.
type Next = Option<[(HeaderName, String); 1]>;

/// What administrators did with the actors of this node, the newest first.
#[utoipa::path(
    get, path = "/admin/audit", tag = "operations", params(Which),
    responses((status = 200, body = Vec<Entry>), (status = "default", response = Problem))
)]
async fn list(
    State(audit): State<Addr<Msg>>,
    _: Admin,
    Query(Which { limit, cursor }): Query<Which>,
) -> Result<(Next, Answer<Vec<Entry>>)> {
    let limit = limit.map_or(i64::MAX - 1, |limit| limit.get() as i64);
    // One more than asked for says whether there is a next page.
    let list = |reply| Msg::List(cursor.unwrap_or(i64::MAX), limit + 1, reply);
    let mut page = audit.ask((), list).await?;
    let more = page.len() as i64 > limit;
    page.truncate(limit as usize);
    let next = page.last().filter(|_| more).map(|last| {
        let next = format!("/admin/audit?limit={limit}&cursor={}", last.id);
        [(header::LINK, format!("<{next}>; rel=\"next\""))]
    });
    Ok((next, Answer(page)))
}
