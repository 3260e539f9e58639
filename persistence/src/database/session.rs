//! A connection that an actor holds between messages, and its transactions.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use sqlx::{Connection, PgConnection};

use super::{CONNECT_TIMEOUT, Database, STATEMENT_TIMEOUT, UNRESPONSIVE};
use crate::{Error, Result};

/// A connection that was not checked for longer is checked before it is used. A transaction that
/// was begun early is used within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that an actor holds between messages, and replaces if it is broken.
#[derive(Debug)]
pub struct Session {
    database: Database,
    held: Option<PoolConnection<Postgres>>,
    checked: Instant,
    /// When a transaction was begun early that is not used yet.
    begun: Option<Instant>,
    /// Whether its commits change cached lists.
    announces: bool,
}

impl Session {
    pub(super) fn new(database: &Database, announces: bool) -> Session {
        let database = database.clone();
        Session { database, held: None, checked: Instant::now(), begun: None, announces }
    }

    /// The held connection: checked if it was not lately, and replaced if it is broken.
    pub async fn connection(&mut self) -> Result<&mut PgConnection> {
        self.discard_early_transaction();
        if self.checked.elapsed() > CHECK_INTERVAL
            && let Some(mut connection) = self.held.take()
        {
            match tokio::time::timeout(CONNECT_TIMEOUT, connection.ping()).await {
                Ok(Ok(())) => self.held = Some(connection),
                _ => drop(connection.detach()),
            }
            self.checked = Instant::now();
        }
        let connection = match self.held.take() {
            Some(connection) => connection,
            None => {
                self.checked = Instant::now();
                self.database.pool.acquire().await?
            }
        };
        Ok(self.held.insert(connection))
    }

    /// Checks that the database responds.
    pub async fn ping(&mut self) -> Result<()> {
        self.within(async |connection| Ok(connection.ping().await?)).await
    }

    /// Whether a connection is held.
    pub fn is_open(&self) -> bool {
        self.held.is_some()
    }

    /// Does `work` on the held connection. Closes the connection if that takes longer than the
    /// statement timeout.
    pub async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
    ) -> Result<T> {
        let done = async { work(self.connection().await?).await };
        match tokio::time::timeout(STATEMENT_TIMEOUT, done).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(self.held.take().map(PoolConnection::detach));
                Err(Error::Unavailable(UNRESPONSIVE.into()))
            }
        }
    }

    /// Begins a transaction. It rolls back if it is dropped before [`Transaction::commit`].
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        if self.begun.take_if(|begun| begun.elapsed() < CHECK_INTERVAL).is_some() {
            return Ok(Transaction { session: self, open: true });
        }
        self.connection().await?;
        let mut tx = Transaction { session: self, open: true };
        sqlx::raw_sql("begin").execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Begins the next transaction early, so that [`Session::begin`] does not wait for the server.
    /// [`Session::begin`] uses it within a second; any other use of the session rolls it back.
    pub async fn begin_early(&mut self) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.open = false; // so that dropping it does not roll back
        drop(tx);
        self.begun = Some(Instant::now());
        Ok(())
    }

    /// Rolls back the transaction that was begun early.
    fn discard_early_transaction(&mut self) {
        if self.begun.take().is_some()
            && let Some(connection) = self.held.take()
        {
            tokio::spawn(roll_back(connection));
        }
    }
}

/// An actor may end during a statement, or because its connection is unresponsive: the connection
/// returns to the pool only if it still responds.
impl Drop for Session {
    fn drop(&mut self) {
        self.discard_early_transaction();
        if let Some(connection) = self.held.take() {
            tokio::spawn(give_back(connection));
        }
    }
}

async fn give_back(mut connection: PoolConnection<Postgres>) {
    if !matches!(tokio::time::timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
        drop(connection.detach());
    }
}

/// A transaction on a held connection. Its commit wakes the relay.
///
/// Dropped without a commit, it rolls back at once, and the session continues with another
/// connection. A transaction of sqlx's own would roll back when its connection is used next: on a
/// held connection, its locks would remain until then.
#[derive(Debug)]
pub struct Transaction<'s> {
    session: &'s mut Session,
    open: bool,
}

impl Transaction<'_> {
    /// Commits. After an error it is unknown whether the transaction committed.
    pub async fn commit(mut self) -> Result<()> {
        let mut commit = "commit".to_owned();
        if self.session.announces {
            // After the commit, in the same message: transactions that notify wait for each other.
            commit += &format!("; notify lists, '{}'", self.session.database.replica);
        }
        sqlx::raw_sql(sqlx::AssertSqlSafe(commit)).execute(&mut *self).await?;
        self.open = false;
        self.session.database.committed.notify_one();
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.session.announces {
            self.session.database.changes.increment(); // also if the outcome of the commit is unknown
        }
        if self.open
            && let Some(connection) = self.session.held.take()
        {
            tokio::spawn(roll_back(connection));
        }
    }
}

async fn roll_back(mut connection: PoolConnection<Postgres>) {
    let rolled_back = sqlx::raw_sql("rollback").execute(&mut *connection);
    if !matches!(tokio::time::timeout(CONNECT_TIMEOUT, rolled_back).await, Ok(Ok(_))) {
        drop(connection.detach()); // closing it rolls back
    }
}

impl Deref for Transaction<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.session.held.as_ref().expect("a transaction holds its connection")
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.session.held.as_mut().expect("a transaction holds its connection")
    }
}
