//! The audit log: administrators' actions on the actors of a node. Entries are never deleted.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use crate::Result;
use crate::pages::PageRequest;
use crate::users::UserId;

/// An administrator's action.
#[derive(Debug, Clone, PartialEq, Serialize, FromRow, ToSchema)]
pub struct AuditEntry {
    /// Grows with every entry.
    #[schema(example = 1)]
    pub id: i64,
    /// When it was recorded.
    #[schema(value_type = String, format = DateTime)]
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    pub at: Timestamp,
    /// The administrator.
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// The administrator's name.
    #[schema(example = "admin")]
    pub username: String,
    /// The action.
    #[schema(example = "restart")]
    pub action: String,
    /// The path of the actor.
    #[schema(example = "shop/order/orders/0")]
    pub actor: String,
    /// The reason that the administrator gave.
    #[schema(example = "stuck for a minute")]
    pub reason: String,
    /// The request's id, as in the log lines.
    pub request_id: String,
}

/// An action to record.
#[derive(Debug, Clone)]
pub struct AdminAction {
    /// The administrator.
    pub user_id: UserId,
    /// The administrator's name.
    pub username: String,
    /// The action.
    pub action: String,
    /// The path of the actor.
    pub actor: String,
    /// The reason that the administrator gave.
    pub reason: String,
    /// The request's id.
    pub request_id: String,
}

const INSERT: &str = "
    insert into audit_log (user_id, username, action, actor, reason, request_id)
    values ($1, $2, $3, $4, $5, $6)
    returning id, at, user_id, username, action, actor, reason, request_id";

/// Records an action before it runs.
pub async fn insert(tx: &mut PgConnection, action: &AdminAction) -> Result<AuditEntry> {
    let insert = sqlx::query_as(INSERT)
        .bind(action.user_id)
        .bind(&action.username)
        .bind(&action.action)
        .bind(&action.actor)
        .bind(&action.reason)
        .bind(&action.request_id);
    Ok(insert.fetch_one(tx).await?)
}

const LIST: &str = "
    select id, at, user_id, username, action, actor, reason, request_id
    from audit_log where id < $1 order by id desc limit $2";

/// Entries in descending ids.
pub async fn list(
    connection: &mut PgConnection,
    page: PageRequest<i64>,
) -> Result<Vec<AuditEntry>> {
    let list = sqlx::query_as(LIST).bind(page.after.unwrap_or(i64::MAX)).bind(page.limit);
    Ok(list.fetch_all(connection).await?)
}
