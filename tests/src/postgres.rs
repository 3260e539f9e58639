//! PostgreSQL servers. All tests of a process share one and have databases of their own.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use anyhow::Context;
use shop_supervisor::embedded::{Options, Postgres};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::{Folder, free_port, signal};

const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL server at 127.0.0.1. Its commits survive a crash only if it is durable.
#[derive(Debug)]
pub struct PostgresServer {
    server: Option<Postgres>,
    options: Options,
    folder: Folder,
}

impl PostgresServer {
    /// The server of this process, started on the first call.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the next call tries again.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Starts another server, for a test that stops it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::run(false).await
    }

    /// Starts a server whose commits survive a crash.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub async fn durable() -> anyhow::Result<Self> {
        Self::run(true).await
    }

    async fn run(durable: bool) -> anyhow::Result<Self> {
        let options = Options {
            durable,
            binaries: env::var_os("SHOP__EMBEDDED__POSTGRES_BINARIES").map(PathBuf::from),
            max_connections: 400,
            port: Some(free_port()),
        };
        let mut server = Self { server: None, options, folder: Folder::new("shop-postgres")? };
        server.start_again().await?;
        Ok(server)
    }

    /// The running server.
    ///
    /// # Panics
    /// Between [`Self::kill`] and [`Self::start_again`].
    #[must_use]
    pub fn server(&self) -> &Postgres {
        self.server.as_ref().expect("a running server")
    }

    /// Kills the postmaster with SIGKILL. The other processes exit when they notice.
    ///
    /// # Errors
    /// When it does not exit.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let status = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = status.lines().next().and_then(|pid| pid.trim().parse().ok());
        signal("KILL", pid.context("no process id in postmaster.pid")?).await?;
        if let Some(mut server) = self.server.take() {
            timeout(KILL_TIMEOUT, server.exited()).await.context("PostgreSQL does not exit")?;
        }
        Ok(())
    }

    /// Starts the server with its data at the same port, after the last of its old processes has exited.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server = Some(Postgres::start(&self.data(), self.options.clone()).await?);
        Ok(())
    }

    /// The log since its last start.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }
}
