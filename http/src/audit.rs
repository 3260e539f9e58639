//! The audit log: what administrators did with the actors of this node.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use shop_actors::audit::Msg;
use shop_persistence::audit::AuditEntry;
use shop_runtime::Addr;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::pages::{ListQuery, Page, Paging};
use crate::problem::{Problem, Result};

/// The route of a node's audit log.
pub fn routes(audit: Addr<Msg>) -> Routes {
    vec![(Access::Admin, OpenApiRouter::new().routes(routes!(list)).with_state(audit))]
}

/// What administrators did with the actors of this node, the newest first.
#[utoipa::path(
    get, path = "/admin/audit", tag = "operations", params(Paging),
    responses((status = 200, body = Vec<AuditEntry>), (status = "default", response = Problem))
)]
async fn list(State(audit): State<Addr<Msg>>, asked: ListQuery<i64>) -> Result<Response> {
    let fetch = move |part| {
        let audit = audit.clone();
        async move {
            let page = audit.ask((), |reply| Msg::List(part, reply)).await?;
            Page::of(page, part, |entry| entry.id).map(Arc::new)
        }
    };
    asked.answer("/admin/audit", fetch).await
}
