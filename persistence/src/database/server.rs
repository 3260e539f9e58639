//! Connecting to a PostgreSQL server.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use shop_runtime::trace;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::CONNECT_TIMEOUT;

/// How long to wait for a server that is starting, for example after a crash.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// The address of a PostgreSQL server, and the account.
#[derive(Debug, Clone)]
pub struct DatabaseServer {
    /// A host name or address, or the directory of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password; empty if the server asks for none.
    pub password: SecretString,
    /// Log every statement.
    pub echo: bool,
    /// The maximum number of connections.
    pub connections: u32,
}

impl DatabaseServer {
    pub(super) fn options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(self.password.expose_secret())
            .database(database)
            .application_name("shop")
            .ssl_mode(self.ssl_mode())
            .options([
                // Every statement has an index and is planned once. Planned for the small tables of
                // its first use, the server would scan whole tables later, and it would plan a
                // statement again whenever an array is longer.
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                // The server ends what an unresponsive node would hold without a limit.
                ("statement_timeout", "10s"),
                ("lock_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "30s"),
                // The server detects a lost node and releases its locks.
                ("tcp_keepalives_idle", "5"),
                ("tcp_keepalives_interval", "2"),
                ("tcp_keepalives_count", "3"),
                ("tcp_user_timeout", "10000"),
            ]);
        if self.echo {
            options.log_statements(tracing::log::LevelFilter::Info)
        } else if trace::is_exported() {
            // These lines are not printed: each becomes a span of the statement's trace.
            options
                .log_statements(tracing::log::LevelFilter::Debug)
                .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::MAX)
        } else {
            options.disable_statement_logging()
        }
    }

    /// A connection that stays on the host is not encrypted, because that would encrypt each
    /// statement twice.
    fn ssl_mode(&self) -> PgSslMode {
        let host = self.host.trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>();
        if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            PgSslMode::Disable
        } else {
            PgSslMode::Prefer
        }
    }

    /// Connects. Waits for a server that reports that it is starting.
    pub(super) async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        let since = Instant::now();
        loop {
            match connect(&self.options(database)).await {
                Err(error) if is_starting(&error) && since.elapsed() < STARTUP_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Connects, and creates the database first if it is missing.
    pub(super) async fn connect_or_create(
        &self,
        database: &str,
    ) -> Result<PgConnection, sqlx::Error> {
        match self.connect(database).await {
            Err(error) if is_missing_database(&error) => {
                self.create(database).await?;
                self.connect(database).await
            }
            outcome => outcome,
        }
    }

    /// Creates the database, unless another replica creates it at the same time.
    async fn create(&self, database: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connect("postgres").await?;
        let name = database.replace('"', "\"\"");
        let created = sqlx::query(sqlx::AssertSqlSafe(format!("create database \"{name}\"")))
            .execute(&mut connection)
            .await;
        if let Err(error) = created
            && !has_code(&error, &["42P04", "23505"])
        {
            return Err(error);
        }
        connection.close().await
    }
}

pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

fn is_missing_database(error: &sqlx::Error) -> bool {
    has_code(error, &["3D000"])
}

fn is_starting(error: &sqlx::Error) -> bool {
    has_code(error, &["57P03"])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| codes.contains(&code.as_ref()))
}
