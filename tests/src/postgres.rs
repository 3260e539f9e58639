//! The PostgreSQL that all tests of a process share, each with databases of its own.

use std::env;
use std::path::PathBuf;

use shop_supervisor::embedded::{Options, Postgres};
use tokio::sync::OnceCell;

use crate::{Folder, free_port};

/// A running cluster, in its socket folder and at 127.0.0.1. Not durable.
#[derive(Debug)]
pub struct Cluster {
    server: Postgres,
    _folder: Folder,
}

impl Cluster {
    /// The one of this process, started when first asked for.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the next asker tries again.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Another one, for a test that stops it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new("shop-postgres")?;
        let options = Options {
            durable: false,
            binaries: env::var_os("SHOP__EMBEDDED__POSTGRES_BINARIES").map(PathBuf::from),
            max_connections: 400,
            port: Some(free_port()),
        };
        let server = Postgres::start(&folder.path().join("postgres"), options).await?;
        Ok(Self { server, _folder: folder })
    }

    /// Where it is and how to stop it.
    #[must_use]
    pub fn server(&self) -> &Postgres {
        &self.server
    }
}
