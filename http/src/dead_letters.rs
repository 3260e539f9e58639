//! Dead letters: administrators list, redrive and drop them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use shop_actors::Confirmation;
use shop_actors::dead_letters::Msg;
use shop_persistence::dead_letters::{DeadLetter, DeadLetterCursor, DeadLetterId};
use shop_runtime::Addr;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::body::{Json, NoBody, Path, Query};
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::pages::{ListQuery, Page, Paging};
use crate::problem::{Problem, Result};

/// The routes of a node's dead letters.
pub fn routes(letters: Addr<Msg>) -> Routes {
    let admin = OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(find_dead_letter, drop_dead_letter))
        .routes(routes!(redrive_dead_letter));
    vec![(Access::Admin, admin.with_state(letters))]
}

/// A filter of dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those from this queue.
    #[param(example = "product.created")]
    queue: Option<String>,
}

/// The node's dead letters, the oldest first.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/admin/dead-letters", tag = "operations", params(Filter, Paging),
    responses((status = 200, body = Vec<DeadLetter>), (status = "default", response = Problem))
)]
async fn list_dead_letters(
    State(letters): State<Addr<Msg>>,
    Query(Filter { queue }): Query<Filter>,
    query: ListQuery<DeadLetterCursor>,
) -> Result<Response> {
    let path = match &queue {
        Some(queue) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            format!("/admin/dead-letters?{}", query.append_pair("queue", queue).finish())
        }
        None => "/admin/dead-letters".to_owned(),
    };
    let fetch = move |request| {
        let (letters, queue) = (letters.clone(), queue.clone());
        async move {
            let page = letters.ask((), |reply| Msg::List(queue, request, reply)).await?;
            Page::render(page, request, |letter| letter.place()).map(Arc::new)
        }
    };
    query.respond(&path, fetch).await
}

/// A dead letter.
#[utoipa::path(
    get, path = "/admin/dead-letters/{id}", tag = "operations", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DeadLetter), (status = "default", response = Problem))
)]
async fn find_dead_letter(
    State(letters): State<Addr<Msg>>,
    Path(id): Path<DeadLetterId>,
) -> Result<Json<DeadLetter>> {
    Ok(Json(letters.ask((), |reply| Msg::Find(id, reply)).await?))
}

/// Applies a dead letter again, after its cause is fixed.
///
/// If it can be applied it is deleted; if not, it stays, and 409 gives the reason.
#[utoipa::path(
    post, path = "/admin/dead-letters/{id}/redrive", tag = "operations",
    params(("id" = uuid::Uuid, Path), KeyHeader),
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn redrive_dead_letter(
    State(letters): State<Addr<Msg>>,
    Path(id): Path<DeadLetterId>,
    Idempotent(key, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let key = key.with_success(StatusCode::OK);
    let redrive = |reply| Msg::Redrive(id, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, letters.ask((), redrive).await?))
}

/// Deletes a dead letter without applying it.
#[utoipa::path(
    delete, path = "/admin/dead-letters/{id}", tag = "operations",
    params(("id" = uuid::Uuid, Path), KeyHeader),
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn drop_dead_letter(
    State(letters): State<Addr<Msg>>,
    Path(id): Path<DeadLetterId>,
    Idempotent(key, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let key = key.with_success(StatusCode::OK);
    let drop = |reply| Msg::Drop(id, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, letters.ask((), drop).await?))
}
