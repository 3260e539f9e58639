//! The PostgreSQL that all tests of a process share, each with databases of its own.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use anyhow::Context;
use shop_supervisor::embedded::{Options, Postgres};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::{Folder, free_port, signal};

const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A running cluster, in its socket folder and at 127.0.0.1. Not durable, unless asked for.
#[derive(Debug)]
pub struct PostgresServer {
    server: Option<Postgres>,
    options: Options,
    folder: Folder,
}

impl PostgresServer {
    /// The one of this process, started when first asked for.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the next asker tries again.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Another one, for a test that stops it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::run(false).await
    }

    /// One whose commits survive whatever ends it.
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
        let mut cluster = Self { server: None, options, folder: Folder::new("shop-postgres")? };
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Where it is and how to stop it.
    ///
    /// # Panics
    /// Between [`Self::kill`] and [`Self::start_again`].
    #[must_use]
    pub fn server(&self) -> &Postgres {
        self.server.as_ref().expect("a server that runs")
    }

    /// Kills the postmaster (`kill -9`): every other process of the cluster ends when it notices.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let status = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = status.lines().next().and_then(|pid| pid.trim().parse().ok());
        signal("KILL", pid.context("no process id in postmaster.pid")?).await?;
        if let Some(mut server) = self.server.take() {
            timeout(KILL_PATIENCE, server.exited()).await.context("PostgreSQL does not end")?;
        }
        Ok(())
    }

    /// Starts it with the data it had, at the same port, once nothing is left of the last one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server = Some(Postgres::start(&self.data(), self.options.clone()).await?);
        Ok(())
    }

    /// What it said since its last start.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }
}
