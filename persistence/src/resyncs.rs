//! Resyncs: requests to rebuild a node's replicated tables, and their progress.

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::database::within;
use crate::stock::Movement;
use crate::{Database, Result};

/// Identifies a request for a resync.
pub type ResyncId = i64;

/// The number of rows that were copied from the other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Progress {
    /// Users.
    pub users: i64,
    /// Stock movements that were missing; on the catalog node, all of them.
    pub movements: i64,
    /// Products.
    pub products: i64,
}

/// A resync and its progress.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Resync {
    /// The number of rows copied so far.
    #[sqlx(flatten)]
    pub progress: Progress,
    /// Whether a node worked on it in the last 30 seconds.
    pub is_worked_at: bool,
    /// Whether it is complete.
    pub done: bool,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
}

const REQUEST: &str = "insert into resyncs default values returning id";

/// Requests a resync.
pub async fn ask(database: &Database) -> Result<ResyncId> {
    let mut session = database.session();
    session.within(async |it| Ok(sqlx::query_scalar(REQUEST).fetch_one(it).await?)).await
}

const FIND: &str = "
    select people as users, movements, products, done_at is not null as done, trouble,
           coalesce(worked_at, asked_at) > clock_timestamp() - interval '30 seconds' as is_worked_at
    from resyncs where id = $1";

/// Finds a resync. None if the table was emptied since.
pub async fn find(database: &Database, id: ResyncId) -> Result<Option<Resync>> {
    let mut session = database.session();
    session.within(async |it| Ok(sqlx::query_as(FIND).bind(id).fetch_optional(it).await?)).await
}

const IS_DUE: &str = "
    select exists (select from resyncs where done_at is null) or not exists (select from resyncs)";

/// Whether a requested resync is not complete, or none was ever completed.
pub async fn is_due(database: &Database) -> Result<bool> {
    let mut session = database.session();
    session.within(async |it| Ok(sqlx::query_scalar(IS_DUE).fetch_one(it).await?)).await
}

const NEWEST_SALE: &str = "
    select id from stock_movements where kind not in ('stocked', 'adjusted') order by id desc limit 1";

/// The newest movement whose source is the order node.
pub async fn newest_sale(connection: &mut PgConnection) -> Result<Option<Uuid>> {
    Ok(sqlx::query_scalar(NEWEST_SALE).fetch_optional(connection).await?)
}

const COUNT_KNOWN: &str = "select count(*) from stock_movements where id = any($1)";

/// Whether this database contains all of the movements.
pub async fn knows_all(connection: &mut PgConnection, movements: &[Movement]) -> Result<bool> {
    let ids: Vec<_> = movements.iter().map(|movement| movement.id).collect();
    let known: i64 = sqlx::query_scalar(COUNT_KNOWN).bind(ids).fetch_one(connection).await?;
    Ok(known == movements.len() as i64)
}

/// The lease for resyncing a database: one replica holds it at a time.
#[derive(Debug)]
pub struct ResyncLease {
    /// Holds the advisory lock.
    connection: PgConnection,
    /// The newest request; completing it completes all before it.
    newest: ResyncId,
    /// Whether none was ever completed.
    first: bool,
}

const LOCK: &str = "select pg_try_advisory_lock(hashtext('shop.resync'))";

const BEGIN: &str = "
    with first as (
        insert into resyncs (worked_at) select now() where not exists (select from resyncs) returning id
    ),
    due as (update resyncs set worked_at = now() where done_at is null returning id)
    select max(id) as newest, not exists (select from resyncs where done_at is not null) as first
    from (table first union all table due) as begun";

const WORK: &str = "
    update resyncs
    set worked_at = now(), people = $2, movements = $3, products = $4, trouble = null
    where id <= $1 and done_at is null";

const FAIL: &str = "
    update resyncs set worked_at = now(), trouble = $2 where id <= $1 and done_at is null";

const FINISH: &str = "update resyncs set done_at = now() where id <= $1 and done_at is null";

impl ResyncLease {
    /// Takes the lease if a resync is due and no other replica holds it.
    pub async fn take(database: &Database) -> Result<Option<ResyncLease>> {
        if !is_due(database).await? {
            return Ok(None);
        }
        let mut connection = database.connect().await?;
        let free: bool = within(sqlx::query_scalar(LOCK).fetch_one(&mut connection)).await?;
        if !free {
            return Ok(None);
        }
        // The previous holder may just have completed it.
        let (newest, first): (Option<ResyncId>, bool) =
            within(sqlx::query_as(BEGIN).fetch_one(&mut connection)).await?;
        Ok(newest.map(|newest| ResyncLease { connection, newest, first }))
    }

    /// Whether none was ever completed: then no row of this database is older than its events.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Stores the progress.
    pub async fn work(&mut self, progress: Progress) -> Result<()> {
        let Progress { users, movements, products } = progress;
        let work = sqlx::query(WORK).bind(self.newest).bind(users).bind(movements).bind(products);
        within(work.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// Stores why this attempt failed.
    pub async fn fail(&mut self, trouble: &str) -> Result<()> {
        let fail = sqlx::query(FAIL).bind(self.newest).bind(trouble);
        within(fail.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// Completes it.
    pub async fn finish(mut self) -> Result<()> {
        let finish = sqlx::query(FINISH).bind(self.newest);
        within(finish.execute(&mut self.connection)).await?;
        Ok(())
    }
}
