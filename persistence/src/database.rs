//! A node's database: how it is reached, made and migrated, and how an owner holds a connection to it.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgSslMode, Postgres};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::pages::ChangeCounter;
use crate::{Error, Result, Schema, outbox};
use shop_runtime::trace;

/// How long a connection may be in the making, and how long one is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// How long a server may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long one statement may take where nobody else sets a limit: longer than the server's own, so that it is the server's
/// word while it can be heard. A network that hangs says nothing.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(12);

/// A connection that was not tried for longer is tried before it is used: the server may have gone meanwhile.
const TRUSTED: Duration = Duration::from_secs(1);

/// Where a PostgreSQL is and how to sign in to it.
#[derive(Debug, Clone)]
pub struct DatabaseServer {
    /// A host name or address, or the folder of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password; empty where the server asks for none.
    pub password: SecretString,
    /// Log every statement.
    pub echo: bool,
    /// At most so many connections.
    pub connections: u32,
}

impl DatabaseServer {
    fn options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(self.password.expose_secret())
            .database(database)
            .application_name("shop")
            .ssl_mode(self.encryption())
            // The server ends by itself what a hanging node would hold for ever.
            .options([
                // Every statement has an index to go by, and is planned once: with the few rows of its first use in mind,
                // the server would read whole tables, and plan a statement anew whenever an array is longer.
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("statement_timeout", "10s"),
                ("lock_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "30s"),
                // It notices a node that has gone without a word, and lets go of what that held.
                ("tcp_keepalives_idle", "5"),
                ("tcp_keepalives_interval", "2"),
                ("tcp_keepalives_count", "3"),
                ("tcp_user_timeout", "10000"),
            ]);
        match self.echo {
            true => options.log_statements(tracing::log::LevelFilter::Info),
            // Nobody reads these lines: each becomes a step of the trace that the statement belongs to.
            false if trace::is_exported() => options
                .log_statements(tracing::log::LevelFilter::Debug)
                .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::MAX),
            false => options.disable_statement_logging(),
        }
    }

    /// What never leaves the host needs none, and is dear: each statement would be encrypted twice.
    fn encryption(&self) -> PgSslMode {
        let host = self.host.trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>();
        match host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            true => PgSslMode::Disable,
            false => PgSslMode::Prefer,
        }
    }

    /// Waits for a server that is just starting, as after a crash: it says so.
    async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        let since = Instant::now();
        loop {
            match connect(&self.options(database)).await {
                Err(error) if is_starting(&error) && since.elapsed() < START_PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes the database, unless another replica was faster.
    async fn create(&self, database: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connect("postgres").await?;
        let name = database.replace('"', "\"\"");
        let created = sqlx::query(sqlx::AssertSqlSafe(format!("create database \"{name}\"")))
            .execute(&mut connection)
            .await;
        let faster = |error: &sqlx::Error| {
            let code = error.as_database_error().and_then(|error| error.code());
            code.is_some_and(|code| ["42P04", "23505"].contains(&code.as_ref()))
        };
        if let Err(error) = created
            && !faster(&error)
        {
            return Err(error);
        }
        connection.close().await
    }
}

/// Waits for the database, but not for ever.
pub(crate) async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(STATEMENT_PATIENCE, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Unavailable("the database does not answer".into())),
    }
}
const MIGRATED: &str = "select to_regclass('_sqlx_migrations') is not null";

const DONE: &str = "select version from _sqlx_migrations where success";

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(CONNECT_PATIENCE, options.connect()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A node's database, open and migrated.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    committed: Arc<Notify>,
    changes: ChangeCounter,
    /// What this process calls itself towards the other replicas.
    replica: Uuid,
}

impl Database {
    /// Connects, makes the database where there is none and the account may, and brings its tables up to date.
    pub async fn open(
        cluster: &DatabaseServer,
        name: &str,
        schema: Schema,
    ) -> Result<Database, sqlx::Error> {
        let mut connection = match cluster.connect(name).await {
            Err(error) if is_missing_database(&error) => {
                cluster.create(name).await?;
                cluster.connect(name).await?
            }
            outcome => outcome?,
        };
        // Migrations wait for those of another replica, which may take longer than one statement should.
        sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = 0")
            .execute(&mut connection)
            .await?;
        schema.migrator().run(&mut connection).await?;
        connection.close().await?;
        Ok(Database::pool(cluster, name))
    }

    /// Connects to a database as it is: nothing is made, and no table is changed.
    pub async fn open_as_it_is(
        cluster: &DatabaseServer,
        name: &str,
    ) -> Result<Database, sqlx::Error> {
        cluster.connect(name).await?.close().await?;
        Ok(Database::pool(cluster, name))
    }

    fn pool(cluster: &DatabaseServer, name: &str) -> Database {
        let pool = PgPoolOptions::new()
            .max_connections(cluster.connections)
            .acquire_timeout(CONNECT_PATIENCE)
            .connect_lazy_with(cluster.options(name));
        let (committed, changes) = (Arc::default(), ChangeCounter::default());
        Database { pool, committed, changes, replica: Uuid::new_v4() }
    }

    /// Whether it holds the tables that this program works with.
    pub async fn is_up_to_date(&self, schema: Schema) -> Result<bool> {
        let mut connection = self.pool.acquire().await?;
        let migrated: bool = sqlx::query_scalar(MIGRATED).fetch_one(&mut *connection).await?;
        if !migrated {
            return Ok(false);
        }
        let done: Vec<i64> = sqlx::query_scalar(DONE).fetch_all(&mut *connection).await?;
        Ok(schema.migrator().iter().all(|migration| done.contains(&migration.version)))
    }

    /// A connection to hold. It is opened at its first use.
    pub fn session(&self) -> Session {
        Session {
            database: self.clone(),
            held: None,
            tried: Instant::now(),
            begun: None,
            announces: false,
        }
    }

    /// The same, for who changes lists that are kept ready: what is committed on it is said to all replicas.
    pub fn announcing_session(&self) -> Session {
        let mut session = self.session();
        session.announces = true;
        session
    }

    /// What changes in the lists that are kept ready.
    pub fn changes(&self) -> &ChangeCounter {
        &self.changes
    }

    /// Whether it was this process that said so.
    pub(crate) fn is_own(&self, announcement: &str) -> bool {
        announcement.parse() == Ok(self.replica)
    }

    /// A connection apart from the pool, for who listens or holds a lock for long.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(connect(&self.pool.connect_options()).await?)
    }

    /// A connection that listens, and reconnects by itself.
    pub(crate) async fn listener(&self) -> Result<PgListener> {
        within(PgListener::connect_with(&self.pool)).await
    }

    /// Resolves when something was committed here since the last call.
    pub async fn committed(&self) {
        self.committed.notified().await;
    }

    /// Waits until all that is in the outbox now was confirmed by the broker.
    pub async fn relayed(&self) -> Result<()> {
        let Some(newest) = outbox::newest(&mut *self.pool.acquire().await?).await? else {
            return Ok(());
        };
        while outbox::waits(&mut *self.pool.acquire().await?, newest).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How many connections are open, how many of them nobody holds, and how many there may be.
    pub fn connections(&self) -> [(&'static str, u32); 3] {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let most = self.pool.options().get_max_connections();
        [("open", self.pool.size()), ("idle", idle), ("most", most)]
    }

    /// Closes every connection; waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn is_missing_database(error: &sqlx::Error) -> bool {
    has_code(error, "3D000")
}

fn is_starting(error: &sqlx::Error) -> bool {
    has_code(error, "57P03")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|it| it == code)
}

/// A connection that its owner keeps from message to message, and replaces when it broke.
#[derive(Debug)]
pub struct Session {
    database: Database,
    held: Option<PoolConnection<Postgres>>,
    tried: Instant,
    /// When a transaction was begun ahead that nobody has used yet.
    begun: Option<Instant>,
    announces: bool,
}

impl Session {
    /// The held connection: tried when that was not done lately, and replaced when it is broken.
    pub async fn connection(&mut self) -> Result<&mut PgConnection> {
        self.forget_begun();
        if self.tried.elapsed() > TRUSTED
            && let Some(mut connection) = self.held.take()
        {
            match tokio::time::timeout(CONNECT_PATIENCE, connection.ping()).await {
                Ok(Ok(())) => self.held = Some(connection),
                _ => drop(connection.detach()),
            }
            self.tried = Instant::now();
        }
        let connection = match self.held.take() {
            Some(connection) => connection,
            None => {
                self.tried = Instant::now();
                self.database.pool.acquire().await?
            }
        };
        Ok(self.held.insert(connection))
    }

    /// Whether the database answers, now.
    pub async fn ping(&mut self) -> Result<()> {
        self.within(async |connection| Ok(connection.ping().await?)).await
    }

    /// Whether a connection is held.
    pub fn is_open(&self) -> bool {
        self.held.is_some()
    }

    /// Does `work` on the held connection, or gives the connection up when that takes longer than any statement should.
    pub async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
    ) -> Result<T> {
        let done = async { work(self.connection().await?).await };
        match tokio::time::timeout(STATEMENT_PATIENCE, done).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(self.held.take().map(PoolConnection::detach)); // it hangs
                Err(Error::Unavailable("the database does not answer".into()))
            }
        }
    }

    /// Begins a transaction. It is rolled back when it is dropped before [`Transaction::commit`].
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        if self.begun.take_if(|begun| begun.elapsed() < TRUSTED).is_some() {
            return Ok(Transaction { session: self, open: true });
        }
        self.connection().await?;
        let mut tx = Transaction { session: self, open: true };
        sqlx::raw_sql("begin").execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Begins the next transaction before it is known what it is for, so that [`Session::begin`] need not wait then. It
    /// goes to whoever begins next, within a second; whoever wants a connection for something else goes on without it.
    pub async fn begin_early(&mut self) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.open = false; // so that it is not rolled back
        drop(tx);
        self.begun = Some(Instant::now());
        Ok(())
    }

    /// Rolls back what was begun ahead.
    fn forget_begun(&mut self) {
        if self.begun.take().is_some()
            && let Some(connection) = self.held.take()
        {
            tokio::spawn(roll_back(connection));
        }
    }
}

/// An owner may end in the middle of a statement, or when its connection hangs: then nobody else shall get that.
impl Drop for Session {
    fn drop(&mut self) {
        self.forget_begun();
        if let Some(connection) = self.held.take() {
            tokio::spawn(give_back(connection));
        }
    }
}

async fn give_back(mut connection: PoolConnection<Postgres>) {
    if !matches!(tokio::time::timeout(CONNECT_PATIENCE, connection.ping()).await, Ok(Ok(()))) {
        drop(connection.detach());
    }
}

/// A transaction on a held connection. Its commit wakes the relay.
///
/// Dropped before, it is rolled back at once, and the session goes on with another connection. A transaction of sqlx's
/// own is rolled back when its connection is used next: on one that is kept, what it locked would stay locked till then.
#[derive(Debug)]
pub struct Transaction<'s> {
    session: &'s mut Session,
    open: bool,
}

impl Transaction<'_> {
    /// Makes it true, for ever. After an error nobody knows whether it is.
    pub async fn commit(mut self) -> Result<()> {
        let mut commit = "commit".to_owned();
        if self.session.announces {
            // Behind the commit, in the same message: transactions that notify queue up behind each other.
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
            self.session.database.changes.increment(); // or may have, where the commit was not heard of
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
    if !matches!(tokio::time::timeout(CONNECT_PATIENCE, rolled_back).await, Ok(Ok(_))) {
        drop(connection.detach()); // its end rolls back
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
