//! Idempotency keys: the response to a request is stored in the transaction of its change, so that
//! a repeated request gets the same response and changes nothing. After the IETF's draft
//! <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{FromRow, PgConnection};

use crate::users::UserId;
use crate::{Error, Result};
use shop_runtime::Failpoint;

/// Identifies a request and its repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The user whose key it is; nil for callers without a token.
    pub caller: UserId,
    /// The key as the caller chose it.
    pub name: String,
    /// A hash of the request: it differs for another method, path or body.
    pub fingerprint: String,
    /// How long the response is stored.
    pub retention: Duration,
}

/// A stored response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// A code for the outcome, which the caller chooses.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// The lock ends with its transaction, also if the process ends: no key stays in flight.
const LOCK: &str = "
    select pg_try_advisory_xact_lock(hashtextextended(key.caller || ' ' || key.name, 0))
    from unnest($1::uuid[], $2::text[]) with ordinality as key (caller, name, place)
    order by place";

const FIND: &str = "
    select caller, name, fingerprint, status, body
    from idempotency_keys join unnest($1::uuid[], $2::text[]) as key (caller, name) using (caller, name)
    where kept_until > now()";

/// Prefix of the fingerprints of this release. Those of an earlier one have another key and cannot
/// be compared; their responses are replayed without the check until they expire.
pub const FINGERPRINT_VERSION: &str = "v1.";

#[derive(FromRow)]
struct ResponseRow {
    caller: UserId,
    name: String,
    fingerprint: String,
    status: i16,
    body: Vec<u8>,
}

impl ResponseRow {
    fn is_of_another_request(&self, key: &Key) -> bool {
        self.fingerprint.starts_with(FINGERPRINT_VERSION) && self.fingerprint != key.fingerprint
    }
}

/// Claims keys. Returns for each the stored response, or none if this transaction is to respond. A
/// key of another request is refused, and so is one that another transaction has claimed.
pub async fn claim(
    tx: &mut PgConnection,
    keys: &[&Key],
) -> Result<Vec<Result<Option<StoredResponse>>>> {
    let callers: Vec<_> = keys.iter().map(|key| key.caller).collect();
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    // Two statements: the second must see a response that was stored before the lock was acquired.
    let locked = sqlx::query_scalar(LOCK).bind(&callers).bind(&names).fetch_all(&mut *tx);
    let locked: Vec<bool> = locked.failpoint("idempotency: lock").await?;
    let stored = sqlx::query_as(FIND).bind(&callers).bind(&names).fetch_all(tx);
    let stored: Vec<ResponseRow> = stored.failpoint("idempotency: find").await?;
    let stored: HashMap<_, _> =
        stored.iter().map(|row| ((row.caller, row.name.as_str()), row)).collect();
    let claimed = |(key, locked): (&&Key, bool)| match stored.get(&(key.caller, key.name.as_str()))
    {
        Some(stored) if stored.is_of_another_request(key) => Err(Error::KeyReused),
        Some(ResponseRow { status, body, .. }) => {
            Ok(Some(StoredResponse { status: *status as u16, body: body.clone() }))
        }
        None if locked => Ok(None),
        None => Err(Error::RequestInProgress),
    };
    Ok(keys.iter().zip(locked).map(claimed).collect())
}

/// An expired response may not be deleted yet.
const STORE: &str = "
    insert into idempotency_keys (caller, name, fingerprint, status, body, kept_until)
    select caller, name, fingerprint, status, body, now() + make_interval(secs => seconds)
    from unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bytea[], $6::float8[])
        as stored (caller, name, fingerprint, status, body, seconds)
    on conflict (caller, name) do update
    set fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
        kept_until = excluded.kept_until";

/// Stores the responses to keys that this transaction claimed.
pub async fn store(tx: &mut PgConnection, responses: &[(&Key, StoredResponse)]) -> Result<()> {
    sqlx::query(STORE)
        .bind(responses.iter().map(|(key, _)| key.caller).collect::<Vec<_>>())
        .bind(responses.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>())
        .bind(responses.iter().map(|(key, _)| key.fingerprint.as_str()).collect::<Vec<_>>())
        .bind(responses.iter().map(|(_, response)| response.status as i16).collect::<Vec<_>>())
        .bind(responses.iter().map(|(_, response)| response.body.as_slice()).collect::<Vec<_>>())
        .bind(responses.iter().map(|(key, _)| key.retention.as_secs_f64()).collect::<Vec<_>>())
        .execute(tx)
        .failpoint("idempotency: store")
        .await?;
    Ok(())
}

/// Sets a savepoint before the change.
pub async fn set_savepoint(tx: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("savepoint change").execute(tx).failpoint("idempotency: set savepoint").await?;
    Ok(())
}

/// Rolls back a refused change; the transaction continues.
pub async fn roll_back_to_savepoint(tx: &mut PgConnection) -> Result<()> {
    let back = sqlx::raw_sql("rollback to savepoint change").execute(tx);
    back.failpoint("idempotency: roll back").await?;
    Ok(())
}

/// Replicas sweep at the same time: each skips the rows that the other has locked.
const SWEEP: &str = "
    delete from idempotency_keys
    where (caller, name) in (
        select caller, name from idempotency_keys where kept_until <= now()
        order by kept_until limit $1 for update skip locked
    )";

/// Deletes at most `limit` expired responses. Returns how many there were.
pub async fn sweep(connection: &mut PgConnection, limit: i64) -> Result<u64> {
    let swept =
        sqlx::query(SWEEP).bind(limit).execute(connection).failpoint("idempotency: sweep").await?;
    Ok(swept.rows_affected())
}
