//! Idempotency keys: the answer to a request is kept in the transaction that does what it asks, so that whoever
//! repeats it gets the same answer, and nothing is done twice. After the IETF's draft
//! <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{FromRow, PgConnection};

use crate::users::UserId;
use crate::{Error, Result};
use shop_runtime::Failpoint;

/// Names a request: whoever sends it again, names it the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Who chose it: nobody else's request has this name. Nil for those without a token.
    pub caller: UserId,
    /// As the caller chose it.
    pub name: String,
    /// What is asked: another for another method, path or body.
    pub fingerprint: String,
    /// How long the answer is kept.
    pub retention: Duration,
}

/// An answer, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// A lock ends with its transaction, however that ends: whoever dies at a request leaves nothing in flight.
const LOCK: &str = "
    select pg_try_advisory_xact_lock(hashtextextended(key.caller || ' ' || key.name, 0))
    from unnest($1::uuid[], $2::text[]) with ordinality as key (caller, name, place)
    order by place";

const FIND: &str = "
    select caller, name, fingerprint, status, body
    from idempotency_keys join unnest($1::uuid[], $2::text[]) as key (caller, name) using (caller, name)
    where kept_until > now()";

#[derive(FromRow)]
struct StoredAnswer {
    caller: UserId,
    name: String,
    fingerprint: String,
    status: i16,
    body: Vec<u8>,
}

/// What was answered to each of these before, if anything; those that were not are this transaction's to answer.
/// A key of another request is refused; so is one that another transaction is at.
pub async fn claim(tx: &mut PgConnection, keys: &[&Key]) -> Result<Vec<Result<Option<Answer>>>> {
    let callers: Vec<_> = keys.iter().map(|key| key.caller).collect();
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    // Two statements: what another transaction answered before we had the lock must be seen.
    let locked = sqlx::query_scalar(LOCK).bind(&callers).bind(&names).fetch_all(&mut *tx);
    let locked: Vec<bool> = locked.failpoint("idempotency: lock").await?;
    let kept = sqlx::query_as(FIND).bind(&callers).bind(&names).fetch_all(tx);
    let kept: Vec<StoredAnswer> = kept.failpoint("idempotency: find").await?;
    let kept: HashMap<_, _> =
        kept.iter().map(|row| ((row.caller, row.name.as_str()), row)).collect();
    let claimed = |(key, locked): (&&Key, bool)| match kept.get(&(key.caller, key.name.as_str())) {
        Some(kept) if kept.fingerprint != key.fingerprint => Err(Error::KeyReused),
        Some(StoredAnswer { status, body, .. }) => {
            Ok(Some(Answer { status: *status as u16, body: body.clone() }))
        }
        None if locked => Ok(None),
        None => Err(Error::RequestInProgress),
    };
    Ok(keys.iter().zip(locked).map(claimed).collect())
}

/// An answer whose time was over may still be there.
const KEEP: &str = "
    insert into idempotency_keys (caller, name, fingerprint, status, body, kept_until)
    select caller, name, fingerprint, status, body, now() + make_interval(secs => seconds)
    from unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bytea[], $6::float8[])
        as kept (caller, name, fingerprint, status, body, seconds)
    on conflict (caller, name) do update
    set fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
        kept_until = excluded.kept_until";

/// Keeps answers to keys that this transaction claimed.
pub async fn keep(tx: &mut PgConnection, answers: &[(&Key, Answer)]) -> Result<()> {
    sqlx::query(KEEP)
        .bind(answers.iter().map(|(key, _)| key.caller).collect::<Vec<_>>())
        .bind(answers.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>())
        .bind(answers.iter().map(|(key, _)| key.fingerprint.as_str()).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, answer)| answer.status as i16).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, answer)| answer.body.as_slice()).collect::<Vec<_>>())
        .bind(answers.iter().map(|(key, _)| key.retention.as_secs_f64()).collect::<Vec<_>>())
        .execute(tx)
        .failpoint("idempotency: keep")
        .await?;
    Ok(())
}

/// Marks how far the transaction is before the change itself.
pub async fn mark(tx: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("savepoint change").execute(tx).failpoint("idempotency: mark").await?;
    Ok(())
}

/// Takes back what a refused change did: the transaction goes on as if it had not been tried.
pub async fn back_to_mark(tx: &mut PgConnection) -> Result<()> {
    let back = sqlx::raw_sql("rollback to savepoint change").execute(tx);
    back.failpoint("idempotency: back to mark").await?;
    Ok(())
}

/// Replicas sweep side by side: each leaves alone what the other is at.
const SWEEP: &str = "
    delete from idempotency_keys
    where (caller, name) in (
        select caller, name from idempotency_keys where kept_until <= now()
        order by kept_until limit $1 for update skip locked
    )";

/// Forgets at most `limit` answers whose time is over; says how many there were.
pub async fn sweep(connection: &mut PgConnection, limit: i64) -> Result<u64> {
    let swept =
        sqlx::query(SWEEP).bind(limit).execute(connection).failpoint("idempotency: sweep").await?;
    Ok(swept.rows_affected())
}
