//! The outbox: events committed with the change that caused them, until the broker has confirmed them.

use sqlx::postgres::{PgArguments, PgListener, Postgres};
use sqlx::query::Query;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::database::within;
use crate::events::{self, Event};
use crate::{Database, Error, Result};
use shop_runtime::{Failpoint, SpanContext};

/// An event that waits to be published.
#[derive(Debug, Clone, FromRow)]
pub struct Waiting {
    /// Its place in the outbox.
    pub id: i64,
    /// Unique to the event, whatever is repeated.
    pub message_id: Uuid,
    /// The event's name.
    pub event: String,
    /// Grows with every change of that one user or product.
    pub version: i64,
    /// The body, JSON.
    pub body: String,
    /// The trace that caused it.
    pub traceparent: Option<String>,
    /// When it was committed, in seconds since 1970.
    pub seconds: i64,
}

/// An event to append.
#[derive(Debug)]
pub struct OutboxEvent {
    name: &'static str,
    body: String,
    /// `None` if the event is about no single row: then its id in the outbox is the version.
    version: Option<i64>,
    trace: Option<SpanContext>,
}

impl OutboxEvent {
    /// An event of the running task about a row, with the row's version.
    ///
    /// # Errors
    /// [`Error::Internal`] if the body cannot be serialised.
    pub fn new<E: Event>(event: &E, version: i64) -> Result<OutboxEvent> {
        let event = OutboxEvent::of_trace(event, SpanContext::current())?;
        Ok(OutboxEvent { version: Some(version), ..event })
    }

    /// An event about no single row, of this trace.
    ///
    /// # Errors
    /// [`Error::Internal`] if the body cannot be serialised.
    pub fn of_trace<E: Event>(event: &E, trace: Option<SpanContext>) -> Result<OutboxEvent> {
        const { assert!(events::is_declared(E::NAME), "add the event to `EVENTS`") };
        let body = serde_json::to_string(event).map_err(|error| Error::Internal(error.into()))?;
        Ok(OutboxEvent { name: E::NAME, body, version: None, trace })
    }
}

const APPEND: &str = "
    insert into outbox (message_id, event, version, body, traceparent)
    select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[])";

/// Writes events into the transaction that causes them. Call it after the rows that they are about are locked,
/// so that the events of one user or product stand in the order of its changes; and so that the transaction has its number
/// before its events have theirs, which `Horizon` counts on.
pub async fn append(tx: &mut PgConnection, entries: &[OutboxEvent]) -> Result<()> {
    bind(sqlx::query(APPEND), entries).execute(tx).failpoint("outbox: append").await?;
    Ok(())
}

/// Gives events to a statement that appends them among other things, as the last five of its values.
pub(crate) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    entries: &[OutboxEvent],
) -> Query<'q, Postgres, PgArguments> {
    statement
        .bind(entries.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.name).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.version).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.body.clone()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.trace.map(|t| t.to_string())).collect::<Vec<_>>())
}

/// How long the outbox is, and how many seconds its oldest event has waited.
pub async fn backlog(connection: &mut PgConnection) -> Result<(i64, f64)> {
    Ok(sqlx::query_as(BACKLOG).fetch_one(connection).failpoint("outbox: backlog").await?)
}

const BACKLOG: &str = "
    select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 from outbox";

const LOCK: &str = "select pg_try_advisory_lock(hashtext('shop.outbox'))";

/// The server ends the session of a leader that has gone without a word, so that another can lead. One that lives asks for
/// more at least every few seconds. What is forgotten need not be so for ever: it would only be published again.
const LEADER: &str = "
    select set_config(name, '20s', false) from pg_settings where name = 'idle_session_timeout';
    set synchronous_commit = off";

/// Both at once, because both are done all the time. What is forgotten is still seen by the same statement. What is left out is
/// hashed because it is a subquery; a list would be gone through for every row. Each row says which transactions may still
/// have been under way.
const NEXT: &str = "
    with forgotten as (delete from outbox where id = any($1))
    select id, message_id, event, coalesce(version, id) as version, body, traceparent,
           extract(epoch from created_at)::bigint as seconds,
           (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint) as oldest_open,
           (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as next_to_open
    from outbox where id > $2 and id not in (select unnest($1 || $3)) order by id limit $4";

/// A row of [`NEXT`].
#[derive(FromRow)]
struct Looked {
    #[sqlx(flatten)]
    waiting: Waiting,
    /// Every transaction before this one had ended.
    oldest_open: i64,
    /// Every transaction from this one on had not begun.
    next_to_open: i64,
}

/// The one reader of a database's outbox: replicas take turns, a lock in the database decides.
#[derive(Debug)]
pub struct Reader {
    database: Database,
    /// Holds the lock, so it is never replaced by another: when it breaks, this reader is over.
    connection: PgConnection,
    /// Hears of what other replicas commit. Only a hint, so it may reconnect by itself.
    hints: PgListener,
    leads: bool,
    horizon: Horizon,
}

/// Where to look for more. What was forgotten leaves rows that the server passes by, one by one, until it has cleaned up; so
/// looks begin behind what is settled. Ids are not in the order of commits: what stands up to an event is settled when a look
/// has covered it after the end of all transactions that may have taken an id before.
#[derive(Debug)]
struct Horizon {
    from: i64,
    /// The next one to look from, once all transactions before this one have ended.
    next: Option<(i64, i64)>,
}

impl Horizon {
    fn saw(&mut self, looked: &[Looked], limit: i64) {
        let Some(newest) = looked.last() else { return };
        let covered = if (looked.len() as i64) < limit { i64::MAX } else { newest.waiting.id };
        match self.next {
            None => self.next = Some((newest.waiting.id, newest.next_to_open)),
            Some((id, before)) if newest.oldest_open >= before && covered >= id => {
                *self = Horizon { from: id, next: None };
            }
            Some(_) => {}
        }
    }
}

impl Reader {
    /// Opens connections of its own.
    pub async fn open(database: &Database) -> Result<Reader> {
        let mut hints = database.listener().failpoint("outbox: open hints").await?;
        within(hints.listen("outbox")).failpoint("outbox: listen").await?;
        let mut connection = database.connect().failpoint("outbox: connect").await?;
        within(sqlx::raw_sql(LEADER).execute(&mut connection))
            .failpoint("outbox: set limit")
            .await?;
        Ok(Reader {
            database: database.clone(),
            connection,
            hints,
            leads: false,
            horizon: Horizon { from: i64::MIN, next: None },
        })
    }

    /// Whether this reader is the one that may publish. Once it is, it stays so for its life.
    pub async fn lead(&mut self) -> Result<bool> {
        if !self.leads {
            let lead = sqlx::query_scalar(LOCK).fetch_one(&mut self.connection);
            self.leads = within(lead).failpoint("outbox: lead").await?;
        }
        Ok(self.leads)
    }

    /// Forgets what the broker has `confirmed`, and says what to publish next: at most `limit` events, in the outbox's
    /// order, leaving out those `in_flight`. Forgotten is by their ids: these are not in the order of commits, so there may
    /// be gaps below them that fill later.
    pub async fn next(
        &mut self,
        confirmed: &[i64],
        in_flight: &[i64],
        limit: usize,
    ) -> Result<Vec<Waiting>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let next = sqlx::query_as(NEXT).bind(confirmed).bind(self.horizon.from);
        let next = next.bind(in_flight).bind(limit).fetch_all(&mut self.connection);
        let next: Vec<Looked> = within(next).failpoint("outbox: next").await?;
        self.horizon.saw(&next, limit);
        Ok(next.into_iter().map(|looked| looked.waiting).collect())
    }

    /// Waits until something was committed, here or by another replica. Cancel safe.
    pub async fn committed(&mut self) -> Result<()> {
        tokio::select! {
            () = self.database.committed() => {}
            hint = self.hints.recv() => drop(hint?),
        }
        Ok(())
    }

    /// Tells the replica that leads that something was committed here. Apart from the commit itself,
    /// because a transaction that notifies makes all others of its kind queue up behind it.
    pub async fn hint(&mut self) -> Result<()> {
        let hint = sqlx::raw_sql("notify outbox").execute(&mut self.connection);
        within(hint).failpoint("outbox: hint").await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// What transactions and the relay do, in turns.
    #[derive(Debug, Clone)]
    enum OutboxLease {
        Begin,
        /// One of those that are open takes the next place in the outbox.
        Append(prop::sample::Index),
        /// One of those that are open ends, and what it has appended is seen from now on.
        Commit(prop::sample::Index),
        /// The relay takes at most so many.
        Look(i64),
    }

    fn turn() -> impl Strategy<Value = OutboxLease> {
        prop_oneof![
            2 => Just(OutboxLease::Begin),
            4 => any::<prop::sample::Index>().prop_map(OutboxLease::Append),
            2 => any::<prop::sample::Index>().prop_map(OutboxLease::Commit),
            3 => (0..5_i64).prop_map(OutboxLease::Look),
        ]
    }

    /// An outbox, and the relay that empties it.
    struct Outbox {
        next_to_open: i64,
        next_id: i64,
        open: BTreeMap<i64, Vec<i64>>,
        waiting: BTreeSet<i64>,
        taken: Vec<i64>,
        horizon: Horizon,
    }

    impl Outbox {
        fn commit(&mut self, transaction: i64) {
            self.waiting.extend(self.open.remove(&transaction).unwrap_or_default());
        }

        fn look(&mut self, limit: i64) {
            let oldest_open = self.open.keys().next().copied().unwrap_or(self.next_to_open);
            let behind = self.waiting.iter().filter(|id| **id > self.horizon.from);
            let ids: Vec<_> = behind.take(limit as usize).copied().collect();
            let looked: Vec<_> =
                ids.iter().map(|id| looked(*id, oldest_open, self.next_to_open)).collect();
            self.horizon.saw(&looked, limit);
            self.waiting.retain(|id| !ids.contains(id));
            self.taken.extend(ids);
        }
    }

    fn looked(id: i64, oldest_open: i64, next_to_open: i64) -> Looked {
        let waiting = Waiting {
            id,
            message_id: Uuid::nil(),
            event: String::new(),
            version: id,
            body: String::new(),
            traceparent: None,
            seconds: 0,
        };
        Looked { waiting, oldest_open, next_to_open }
    }

    proptest! {
        #[test]
        fn no_event_is_passed_over_in_whatever_order_transactions_end(
            turns in prop::collection::vec(turn(), 0..200)
        ) {
            let mut outbox = Outbox {
                next_to_open: 1,
                next_id: 1,
                open: BTreeMap::new(),
                waiting: BTreeSet::new(),
                taken: vec![],
                horizon: Horizon { from: i64::MIN, next: None },
            };
            for turn in turns {
                let open: Vec<_> = outbox.open.keys().copied().collect();
                match turn {
                    OutboxLease::Begin => {
                        outbox.open.insert(outbox.next_to_open, vec![]);
                        outbox.next_to_open += 1;
                    }
                    OutboxLease::Append(which) if !open.is_empty() => {
                        outbox.open.entry(*which.get(&open)).or_default().push(outbox.next_id);
                        outbox.next_id += 1;
                    }
                    OutboxLease::Commit(which) if !open.is_empty() => outbox.commit(*which.get(&open)),
                    OutboxLease::Look(limit) => outbox.look(limit),
                    _ => {}
                }
            }
            for transaction in outbox.open.keys().copied().collect::<Vec<_>>() {
                outbox.commit(transaction);
            }
            outbox.look(i64::MAX);
            outbox.taken.sort_unstable();
            prop_assert_eq!(outbox.taken, (1..outbox.next_id).collect::<Vec<_>>());
        }
    }
}
