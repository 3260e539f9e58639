//! PostgreSQL and RabbitMQ, and the faults that happen to them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use shop_supervisor::embedded::Postgres;
use shop_tests::postgres::PostgresServer;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::{POLL_INTERVAL, READY_TIMEOUT};

const SQL_TIMEOUT: Duration = Duration::from_secs(5);

/// A PostgreSQL and a RabbitMQ of the run's own.
#[derive(Debug)]
pub struct Servers {
    postgres: Mutex<PostgresServer>,
    rabbitmq: Mutex<RabbitMq>,
    pub database_port: u16,
    pub broker_port: u16,
}

impl Servers {
    /// Starts both.
    pub async fn start() -> anyhow::Result<Servers> {
        let (postgres, rabbitmq) = tokio::join!(PostgresServer::durable(), RabbitMq::start());
        let (postgres, rabbitmq) = (postgres?, rabbitmq?);
        let (database_port, broker_port) = (postgres.server().port(), rabbitmq.port());
        let (postgres, rabbitmq) = (Mutex::new(postgres), Mutex::new(rabbitmq));
        Ok(Servers { postgres, rabbitmq, database_port, broker_port })
    }

    /// A connection to a database, without a proxy.
    pub async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.database_port)
            .username(Postgres::USER)
            .database(database);
        Ok(timeout(SQL_TIMEOUT, PgConnection::connect_with(&options)).await??)
    }

    /// Kills RabbitMQ with SIGKILL, starts it, and waits until it accepts connections.
    pub async fn kill_broker(&self) -> anyhow::Result<()> {
        let mut rabbitmq = self.rabbitmq.lock().await;
        rabbitmq.kill().await?;
        rabbitmq.start_again().await
    }

    /// Suspends RabbitMQ for `duration`.
    pub async fn suspend_broker(&self, duration: Duration) -> anyhow::Result<()> {
        let mut rabbitmq = self.rabbitmq.lock().await;
        rabbitmq.signal("STOP");
        sleep(duration).await;
        rabbitmq.signal("CONT");
        Ok(())
    }

    /// Kills the postmaster with SIGKILL, starts it, and waits until it accepts connections.
    pub async fn kill_postmaster(&self) -> anyhow::Result<()> {
        let mut postgres = self.postgres.lock().await;
        postgres.kill().await?;
        postgres.start_again().await?;
        self.until_connected().await
    }

    /// Kills a backend with SIGKILL, upon which the postmaster ends all others. Waits until it accepts
    /// connections again.
    pub async fn kill_backend(&self, choice: usize) -> anyhow::Result<()> {
        let _lock = self.postgres.lock().await;
        let mut connection = self.connect("postgres").await?;
        signal("KILL", backend(&mut connection, choice).await?).await?;
        let broken = async { while connection.ping().await.is_ok() {} };
        timeout(SQL_TIMEOUT, broken).await.context("PostgreSQL does not restart")?;
        self.until_connected().await
    }

    /// Suspends a backend for `duration`, with the locks that it holds.
    pub async fn suspend_backend(&self, choice: usize, duration: Duration) -> anyhow::Result<()> {
        let _lock = self.postgres.lock().await;
        let pid = backend(&mut self.connect("postgres").await?, choice).await?;
        signal("STOP", pid).await?;
        sleep(duration).await;
        signal("CONT", pid).await?;
        Ok(())
    }

    async fn until_connected(&self) -> anyhow::Result<()> {
        let connected = async {
            while self.connect("postgres").await.is_err() {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(READY_TIMEOUT, connected).await.context("PostgreSQL does not accept connections")
    }

    /// Copies the logs of PostgreSQL (since its last start) and RabbitMQ, which are temporary.
    pub async fn copy_logs(&self, logs: &Path) -> anyhow::Result<()> {
        fs::copy(self.postgres.lock().await.log(), logs.join("postgres.log"))?;
        for log in fs::read_dir(self.rabbitmq.lock().await.logs())?.flatten() {
            if log.file_type()?.is_file() {
                fs::copy(log.path(), logs.join(log.file_name()))?;
            }
        }
        Ok(())
    }
}

/// The process id of one of the nodes' backends. Waits until there is one.
async fn backend(connection: &mut PgConnection, choice: usize) -> anyhow::Result<u32> {
    const BACKENDS: &str = "
        select pid from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() order by pid";
    let found = async {
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(BACKENDS).fetch_all(&mut *connection).await?;
            if let Some(pid) = pids.get(choice % pids.len().max(1)) {
                return anyhow::Ok(u32::try_from(*pid)?);
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(READY_TIMEOUT, found).await.context("no node connects to PostgreSQL within 60 s")?
}
