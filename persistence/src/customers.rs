//! Customers: the auth node's users, as the catalog and order nodes last heard of them.

use sqlx::{FromRow, PgConnection};

use crate::Result;
use crate::events::newest;
use crate::users::{User, UserId};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn news() -> impl Strategy<Value = Vec<UserUpdate>> {
        let one = (0..5_u128, 1..9_i64);
        let one = one.prop_map(|(id, version)| UserUpdate {
            id: Uuid::from_u128(id),
            version,
            user: None,
        });
        prop::collection::vec(one, 0..40)
    }

    proptest! {
        #[test]
        fn of_each_user_the_newest_news_is_left_whatever_the_order(news in news().prop_shuffle()) {
            let newest = newest(&news, |news| (news.id, news.version)).into_values();
            let newest: Vec<_> = newest.collect();
            prop_assert!(newest.is_sorted_by(|one, next| one.id < next.id), "each user once");
            for item in &news {
                let left = newest.iter().find(|left| left.id == item.id);
                prop_assert!(left.is_some_and(|left| left.version >= item.version));
            }
            prop_assert!(newest.iter().all(|left| news.contains(left)), "nothing is made up");
        }
    }
}
