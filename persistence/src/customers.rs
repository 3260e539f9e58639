//! Customers: the copies of the auth node's users on the catalog and order nodes.

use sqlx::{FromRow, PgConnection};

use crate::Result;
use crate::users::{User, UserId};
use crate::versions::newest;

/// A user as of a version.
#[derive(Debug, Clone, PartialEq)]
pub struct UserUpdate {
    /// Identifies the user.
    pub id: UserId,
    /// Grows with every change of that user.
    pub version: i64,
    /// The user as of that version; none if the user is deleted.
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

/// Applies the updates that are newer than the stored versions. Returns the users that changed.
pub async fn upsert(tx: &mut PgConnection, updates: &[UserUpdate]) -> Result<Vec<UserId>> {
    let newest = newest(updates, |update| (update.id, update.version));
    let updates: Vec<_> = newest.into_values().collect();
    let users = || updates.iter().map(|update| update.user.as_ref());
    let changed = sqlx::query_scalar(UPSERT)
        .bind(updates.iter().map(|update| update.id).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.username.as_str())).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.email.as_str())).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.role)).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.version).collect::<Vec<_>>())
        .bind(users().map(|user| user.is_none()).collect::<Vec<_>>())
        .fetch_all(tx);
    Ok(changed.await?)
}

/// A user who may order, or is deleted.
#[derive(Debug, Clone, FromRow)]
pub struct Customer {
    /// The user.
    #[sqlx(flatten)]
    pub user: User,
    /// Whether the user is deleted.
    pub deleted: bool,
}

const FIND: &str = "
    select id, username, email, role, deleted from customers where id = $1 and role is not null";

/// Finds a customer, unless this node has never received an event of that user.
pub async fn find(connection: &mut PgConnection, id: UserId) -> Result<Option<Customer>> {
    Ok(sqlx::query_as(FIND).bind(id).fetch_optional(connection).await?)
}
