//! Dead letters: what an administrator sees of them, redrives and drops.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use shop_actors::dead_letters::Msg;
use shop_persistence::Confirmation;
use shop_persistence::dead_letters::{DeadLetter, DeadLetterCursor, DeadLetterId};
use shop_runtime::Addr;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::body::{NoBody, Path, Query};
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::pages::{ListQuery, Page, Paging};
use crate::problem::{Problem, Result};

/// The routes of a node's dead letters.
pub fn routes(letters: Addr<Msg>) -> Routes {
    let admin = OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(find, drop))
        .routes(routes!(redrive));
    vec![(Access::Admin, admin.with_state(letters))]
}

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only those of this queue.
    #[param(example = "product.created")]
    queue: Option<String>,
}

/// Messages that could not be applied, the oldest first.
///
/// With `limit`, a page of them; the header `Link` leads to the next one.
#[utoipa::path(
    get, path = "/admin/dead-letters", tag = "operations", params(Which, Paging),
    responses((status = 200, body = Vec<DeadLetter>), (status = "default", response = Problem))
)]
async fn list(
    State(letters): State<Addr<Msg>>,
    Query(Which { queue }): Query<Which>,
    asked: ListQuery<DeadLetterCursor>,
) -> Result<Response> {
    let path = match &queue {
        Some(queue) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            format!("/admin/dead-letters?{}", query.append_pair("queue", queue).finish())
        }
        None => "/admin/dead-letters".to_owned(),
    };
    let fetch = move |part| {
        let (letters, queue) = (letters.clone(), queue.clone());
        async move {
            let page = letters.ask((), |reply| Msg::List(queue, part, reply)).await?;
            Page::of(page, part, |letter| letter.place()).map(Arc::new)
        }
    };
    asked.answer(&path, fetch).await
}

/// One of them.
#[utoipa::path(
    get, path = "/admin/dead-letters/{id}", tag = "operations", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DeadLetter), (status = "default", response = Problem))
)]
async fn find(
    State(letters): State<Addr<Msg>>,
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
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn redrive(
    State(letters): State<Addr<Msg>>,
    Path(id): Path<DeadLetterId>,
    Idempotent(named, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let once = named.once(StatusCode::OK);
    let redrive = |reply| Msg::Redrive(id, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, letters.ask((), redrive).await?))
}

/// Forgets it for ever.
#[utoipa::path(
    delete, path = "/admin/dead-letters/{id}", tag = "operations",
    params(("id" = uuid::Uuid, Path), KeyHeader),
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn drop(
    State(letters): State<Addr<Msg>>,
    Path(id): Path<DeadLetterId>,
    Idempotent(named, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let once = named.once(StatusCode::OK);
    let drop = |reply| Msg::Drop(id, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, letters.ask((), drop).await?))
}
