//! Customers: the auth node's users, as the catalog and order nodes last heard of them.

use sqlx::{FromRow, PgConnection};

use crate::Result;
use crate::users::{User, UserId};
use crate::versions::newest;

/// What was heard of a user, and how new it is.
#[derive(Debug, Clone, PartialEq)]
pub struct UserUpdate {
    /// Who.
    pub id: UserId,
    /// Grows with every change of that user.
    pub version: i64,
    /// What the user is like now; nothing when the user is gone.
    pub user: Option<User>,
}

const UPSERT: &str = "
    insert into customers (id, username, email, role, version, deleted)
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::boolean[])
    on conflict (id) do update
    set username = coalesce(excluded.username, customers.username),
        email = coalesce(excluded.email, customers.email),
        role = coalesce(excluded.role, customers.role),
        version = excluded.version, deleted = excluded.deleted
    where excluded.version > customers.version
    returning id";

/// Remembers what was heard, unless newer is known. Says whose customers' news it really was.
pub async fn upsert(tx: &mut PgConnection, news: &[UserUpdate]) -> Result<Vec<UserId>> {
    let news: Vec<_> = newest(news, |news| (news.id, news.version)).into_values().collect();
    let users = || news.iter().map(|news| news.user.as_ref());
    let changed = sqlx::query_scalar(UPSERT)
        .bind(news.iter().map(|news| news.id).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.username.as_str())).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.email.as_str())).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.role)).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.version).collect::<Vec<_>>())
        .bind(users().map(|user| user.is_none()).collect::<Vec<_>>())
        .fetch_all(tx);
    Ok(changed.await?)
}

/// Somebody who may buy, or could once.
#[derive(Debug, Clone, FromRow)]
pub struct Customer {
    /// Who.
    #[sqlx(flatten)]
    pub user: User,
    /// Whether the account is gone.
    pub deleted: bool,
}

const FIND: &str = "
    select id, username, email, role, deleted from customers where id = $1 and role is not null";

/// Finds a customer, if this node has ever heard of it.
pub async fn find(connection: &mut PgConnection, id: UserId) -> Result<Option<Customer>> {
    Ok(sqlx::query_as(FIND).bind(id).fetch_optional(connection).await?)
}
