//! The audit log of a node.

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
    vec![(Access::Admin, OpenApiRouter::new().routes(routes!(list_audit_log)).with_state(audit))]
}

/// The administrators' actions on the actors of this node, the newest first.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/admin/audit", tag = "operations", params(Paging),
    responses((status = 200, body = Vec<AuditEntry>), (status = "default", response = Problem))
)]
async fn list_audit_log(State(audit): State<Addr<Msg>>, query: ListQuery<i64>) -> Result<Response> {
    let fetch = move |request| {
        let audit = audit.clone();
        async move {
            let page = audit.ask((), |reply| Msg::List(request, reply)).await?;
            Page::render(page, request, |entry| entry.id).map(Arc::new)
        }
    };
    query.respond("/admin/audit", fetch).await
}
