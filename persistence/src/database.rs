//! A node's database: created, migrated and opened with a pool of connections.

mod changes;
mod server;
mod session;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use uuid::Uuid;

pub use changes::{ChangeCounter, ChangeSubscription};
pub use server::DatabaseServer;
pub use session::{Session, Transaction};

use crate::{Error, Result, Schema};

/// The timeout for opening a connection, and for waiting for a free one of the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The timeout for one statement where its caller sets none. It is longer than the server's own
/// timeout, so that the server reports it if it is reachable; a broken network reports nothing.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(12);

const UNRESPONSIVE: &str = "the database did not respond in time";

/// Limits the duration of a statement outside a [`Session`].
pub(crate) async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Unavailable(UNRESPONSIVE.into())),
    }
}

/// A node's database, open and migrated. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    committed: Arc<Notify>,
    changes: ChangeCounter,
    /// Identifies this process to the other replicas.
    replica: Uuid,
}

impl Database {
    /// Connects, creates the database if it is missing and the account may, and migrates it.
    pub async fn open(
        server: &DatabaseServer,
        name: &str,
        schema: Schema,
    ) -> Result<Database, sqlx::Error> {
        let mut connection = server.connect_or_create(name).await?;
        // Another replica may be migrating, which may take longer than a statement may.
        sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = 0")
            .execute(&mut connection)
            .await?;
        schema.migrator().run(&mut connection).await?;
        connection.close().await?;
        Ok(Database::pool(server, name))
    }

    /// Connects to a database and neither creates nor migrates it.
    pub async fn open_as_it_is(
        server: &DatabaseServer,
        name: &str,
    ) -> Result<Database, sqlx::Error> {
        server.connect(name).await?.close().await?;
        Ok(Database::pool(server, name))
    }

    fn pool(server: &DatabaseServer, name: &str) -> Database {
        let pool = PgPoolOptions::new()
            .max_connections(server.connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(server.options(name));
        let (committed, changes) = (Arc::default(), ChangeCounter::default());
        Database { pool, committed, changes, replica: Uuid::new_v4() }
    }

    /// Whether every migration of the schema is applied.
    pub async fn is_up_to_date(&self, schema: Schema) -> Result<bool> {
        const EXISTS: &str = "select to_regclass('_sqlx_migrations') is not null";
        const APPLIED: &str = "select version from _sqlx_migrations where success";
        let mut connection = self.pool.acquire().await?;
        let exists: bool = sqlx::query_scalar(EXISTS).fetch_one(&mut *connection).await?;
        if !exists {
            return Ok(false);
        }
        let applied: Vec<i64> = sqlx::query_scalar(APPLIED).fetch_all(&mut *connection).await?;
        Ok(schema.migrator().iter().all(|migration| applied.contains(&migration.version)))
    }

    /// A connection to hold. It is opened when it is first used.
    pub fn session(&self) -> Session {
        Session::new(self, false)
    }

    /// A session whose commits change cached lists: they advance the change counter here and notify
    /// the other replicas.
    pub fn announcing_session(&self) -> Session {
        Session::new(self, true)
    }

    /// Counts the commits that change cached lists.
    pub fn changes(&self) -> &ChangeCounter {
        &self.changes
    }

    /// A connection outside the pool, for holding an advisory lock.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(server::connect(&self.pool.connect_options()).await?)
    }

    /// A connection that listens for notifications and reconnects by itself.
    pub(crate) async fn listener(&self) -> Result<PgListener> {
        within(PgListener::connect_with(&self.pool)).await
    }

    /// Resolves after a commit of this process since the last call.
    pub async fn committed(&self) {
        self.committed.notified().await;
    }

    /// Waits until the broker has confirmed every event that is in the outbox now.
    pub async fn relayed(&self) -> Result<()> {
        const NEWEST: &str = "select max(id) from outbox";
        const WAITING: &str = "select exists (select from outbox where id <= $1)";
        let newest: Option<i64> = sqlx::query_scalar(NEWEST).fetch_one(&self.pool).await?;
        while sqlx::query_scalar(WAITING).bind(newest).fetch_one(&self.pool).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The number of connections of the pool that are open, that are idle, and that may be open.
    pub fn connections(&self) -> [(&'static str, u32); 3] {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let max = self.pool.options().get_max_connections();
        [("open", self.pool.size()), ("idle", idle), ("max", max)]
    }

    /// Closes every connection after its session ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
