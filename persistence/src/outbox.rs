//! The outbox: events that are committed with their change and not yet confirmed by the broker.

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
    /// Its id in the outbox.
    pub id: i64,
    /// Identifies the event, also if it is published again.
    pub message_id: Uuid,
    /// The event's name.
    pub event: String,
    /// The version of the row that the event is about.
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

/// Appends events to the transaction of their change. Call it after the rows that they are about
/// are locked: then the events of a row have the order of its changes, and the transaction has its
/// id before its events have theirs, which [`Horizon`] relies on.
pub async fn append(tx: &mut PgConnection, entries: &[OutboxEvent]) -> Result<()> {
    bind(sqlx::query(APPEND), entries).execute(tx).failpoint("outbox: append").await?;
    Ok(())
}

/// Binds events as the last five values of a statement that appends them.
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

/// The number of events in the outbox, and the age of the oldest in seconds.
pub async fn backlog(connection: &mut PgConnection) -> Result<(i64, f64)> {
    Ok(sqlx::query_as(BACKLOG).fetch_one(connection).failpoint("outbox: backlog").await?)
}

const BACKLOG: &str = "
    select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 from outbox";

const LOCK: &str = "select pg_try_advisory_lock(hashtext('shop.outbox'))";

/// The server ends the session of a leader whose host was lost, so that another can lead; a live
/// leader queries at least every few seconds. Deletions need not be durable: a lost one only causes
/// an event to be published again.
const LEADER: &str = "
    select set_config(name, '20s', false) from pg_settings where name = 'idle_session_timeout';
    set synchronous_commit = off";

/// Deletes and reads in one round trip. The same statement still sees the rows that it deletes. The
/// excluded ids are a subquery because PostgreSQL hashes it; it would compare a list with every
/// row. Each row says which transactions may still have been open.
const NEXT: &str = "
    with confirmed as (delete from outbox where id = any($1))
    select id, message_id, event, coalesce(version, id) as version, body, traceparent,
           extract(epoch from created_at)::bigint as seconds,
           (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint) as oldest_open,
           (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as next_to_open
    from outbox where id > $2 and id not in (select unnest($1 || $3)) order by id limit $4";

/// A row of [`NEXT`].
#[derive(FromRow)]
struct NextRow {
    #[sqlx(flatten)]
    waiting: Waiting,
    /// Every transaction before this one had ended.
    oldest_open: i64,
    /// Every transaction from this one on had not begun.
    next_to_open: i64,
}

/// The reader of a database's outbox. An advisory lock elects one of the replicas.
#[derive(Debug)]
pub struct Reader {
    database: Database,
    /// Holds the lock and is never replaced: if it breaks, this reader ends.
    connection: PgConnection,
    /// Notifications of other replicas' commits. They are only hints, so it may reconnect.
    hints: PgListener,
    leads: bool,
    horizon: Horizon,
}

/// Where the next read starts. The server scans deleted rows one by one until it vacuums them, so a
/// read starts after the rows that are settled. Ids are not in commit order: the rows up to an
/// event are settled after a read that covered them and began when every transaction that may have
/// taken a smaller id had ended.
#[derive(Debug)]
struct Horizon {
    from: i64,
    /// The next start, usable once all transactions before the given one have ended.
    next: Option<(i64, i64)>,
}

impl Horizon {
    fn advance(&mut self, read: &[NextRow], limit: i64) {
        let Some(newest) = read.last() else { return };
        let covered = if (read.len() as i64) < limit { i64::MAX } else { newest.waiting.id };
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
    /// Opens its connections, outside the pool.
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

    /// Tries to become the leader, which alone may publish. A leader stays one until it ends.
    pub async fn lead(&mut self) -> Result<bool> {
        if !self.leads {
            let lead = sqlx::query_scalar(LOCK).fetch_one(&mut self.connection);
            self.leads = within(lead).failpoint("outbox: lead").await?;
        }
        Ok(self.leads)
    }

    /// Deletes the `confirmed` events, and returns the next ones to publish: at most `limit`, in
    /// the outbox's order, without those `in_flight`. It deletes by id, not up to an id: ids are
    /// not in commit order, so smaller ones may still appear.
    pub async fn next(
        &mut self,
        confirmed: &[i64],
        in_flight: &[i64],
        limit: usize,
    ) -> Result<Vec<Waiting>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let next = sqlx::query_as(NEXT).bind(confirmed).bind(self.horizon.from);
        let next = next.bind(in_flight).bind(limit).fetch_all(&mut self.connection);
        let next: Vec<NextRow> = within(next).failpoint("outbox: next").await?;
        self.horizon.advance(&next, limit);
        Ok(next.into_iter().map(|row| row.waiting).collect())
    }

    /// Waits for a commit of this process or of another replica. Cancel safe.
    pub async fn committed(&mut self) -> Result<()> {
        tokio::select! {
            () = self.database.committed() => {}
            hint = self.hints.recv() => drop(hint?),
        }
        Ok(())
    }

    /// Notifies the leading replica of a commit. Not in the commit itself, because transactions
    /// that notify wait for each other.
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

    /// A step of a transaction or of the relay.
    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        /// An open transaction takes the next id.
        Append(prop::sample::Index),
        /// An open transaction commits, and its events become visible.
        Commit(prop::sample::Index),
        /// The relay reads at most this number of events.
        Read(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Begin),
            4 => any::<prop::sample::Index>().prop_map(Step::Append),
            2 => any::<prop::sample::Index>().prop_map(Step::Commit),
            3 => (0..5_i64).prop_map(Step::Read),
        ]
    }

    /// An outbox and its relay.
    struct Outbox {
        next_to_open: i64,
        next_id: i64,
        open: BTreeMap<i64, Vec<i64>>,
        waiting: BTreeSet<i64>,
        published: Vec<i64>,
        horizon: Horizon,
    }

    impl Outbox {
        fn commit(&mut self, transaction: i64) {
            self.waiting.extend(self.open.remove(&transaction).unwrap_or_default());
        }

        fn read(&mut self, limit: i64) {
            let oldest_open = self.open.keys().next().copied().unwrap_or(self.next_to_open);
            let behind = self.waiting.iter().filter(|id| **id > self.horizon.from);
            let ids: Vec<_> = behind.take(limit as usize).copied().collect();
            let rows: Vec<_> =
                ids.iter().map(|id| row(*id, oldest_open, self.next_to_open)).collect();
            self.horizon.advance(&rows, limit);
            self.waiting.retain(|id| !ids.contains(id));
            self.published.extend(ids);
        }
    }

    fn row(id: i64, oldest_open: i64, next_to_open: i64) -> NextRow {
        let waiting = Waiting {
            id,
            message_id: Uuid::nil(),
            event: String::new(),
            version: id,
            body: String::new(),
            traceparent: None,
            seconds: 0,
        };
        NextRow { waiting, oldest_open, next_to_open }
    }

    proptest! {
        #[test]
        fn every_event_is_published_whatever_the_order_of_commits(
            steps in prop::collection::vec(step(), 0..200)
        ) {
            let mut outbox = Outbox {
                next_to_open: 1,
                next_id: 1,
                open: BTreeMap::new(),
                waiting: BTreeSet::new(),
                published: vec![],
                horizon: Horizon { from: i64::MIN, next: None },
            };
            for step in steps {
                let open: Vec<_> = outbox.open.keys().copied().collect();
                match step {
                    Step::Begin => {
                        outbox.open.insert(outbox.next_to_open, vec![]);
                        outbox.next_to_open += 1;
                    }
                    Step::Append(which) if !open.is_empty() => {
                        outbox.open.entry(*which.get(&open)).or_default().push(outbox.next_id);
                        outbox.next_id += 1;
                    }
                    Step::Commit(which) if !open.is_empty() => outbox.commit(*which.get(&open)),
                    Step::Read(limit) => outbox.read(limit),
                    _ => {}
                }
            }
            for transaction in outbox.open.keys().copied().collect::<Vec<_>>() {
                outbox.commit(transaction);
            }
            outbox.read(i64::MAX);
            outbox.published.sort_unstable();
            prop_assert_eq!(outbox.published, (1..outbox.next_id).collect::<Vec<_>>());
        }
    }
}
