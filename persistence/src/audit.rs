//! The audit log: what administrators did with the actors of a node, for ever.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use crate::Result;
use crate::pages::PageRequest;
use crate::users::UserId;

/// Something that an administrator did.
#[derive(Debug, Clone, PartialEq, Serialize, FromRow, ToSchema)]
pub struct AuditEntry {
    /// Its number; grows.
    #[schema(example = 1)]
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    pub at: Timestamp,
    /// Who.
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// The name that they signed in with.
    #[schema(example = "admin")]
    pub username: String,
    /// What.
    #[schema(example = "restart")]
    pub action: String,
    /// To which actor.
    #[schema(example = "shop/order/orders/0")]
    pub actor: String,
    /// Why.
    #[schema(example = "stuck for a minute")]
    pub reason: String,
    /// The request's id, as in the log.
    pub request_id: String,
}

/// Something that an administrator is about to do.
#[derive(Debug, Clone)]
pub struct AdminAction {
    /// Who.
    pub user_id: UserId,
    /// The name that they signed in with.
    pub username: String,
    /// What.
    pub action: String,
    /// To which actor.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The request's id.
    pub request_id: String,
}

const INSERT: &str = "
    insert into audit_log (user_id, username, action, actor, reason, request_id)
    values ($1, $2, $3, $4, $5, $6)
    returning id, at, user_id, username, action, actor, reason, request_id";

/// Writes down what is about to be done.
pub async fn insert(tx: &mut PgConnection, deed: &AdminAction) -> Result<AuditEntry> {
    let insert = sqlx::query_as(INSERT)
        .bind(deed.user_id)
        .bind(&deed.username)
        .bind(&deed.action)
        .bind(&deed.actor)
        .bind(&deed.reason)
        .bind(&deed.request_id);
    Ok(insert.fetch_one(tx).await?)
}

const LIST: &str = "
    select id, at, user_id, username, action, actor, reason, request_id
    from audit_log where id < $1 order by id desc limit $2";

/// Entries, the newest first.
pub async fn list(
    connection: &mut PgConnection,
    part: PageRequest<i64>,
) -> Result<Vec<AuditEntry>> {
    let list = sqlx::query_as(LIST).bind(part.after.unwrap_or(i64::MAX)).bind(part.limit);
    Ok(list.fetch_all(connection).await?)
}
