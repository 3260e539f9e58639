//! The embedded PostgreSQL as a supervised service, and as a server that commands use.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use secrecy::SecretString;
use shop_persistence::DatabaseServer;
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{HandlerResult, Service};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{DataDirectory, Options, Postgres};
use crate::config::Config;

/// The embedded PostgreSQL. It starts before the actor tree, which then supervises it.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedPostgres {
    directory: DataDirectory,
    options: Options,
    pub(crate) server: DatabaseServer,
    /// The running server; the service takes it at its first start.
    running: Arc<Mutex<Option<Postgres>>>,
}

impl EmbeddedPostgres {
    pub(crate) async fn start(
        config: &Config,
        directory: &DataDirectory,
    ) -> anyhow::Result<EmbeddedPostgres> {
        let binaries = &config.embedded.postgres_binaries;
        let binaries = (!binaries.as_os_str().is_empty()).then(|| binaries.clone());
        let options = Options { binaries, ..Options::default() };
        let postgres = Postgres::start(&directory.postgres(), options.clone()).await?;
        let server = server(postgres.socket_directory(), postgres.port())?;
        let running = Arc::new(Mutex::new(Some(postgres)));
        Ok(EmbeddedPostgres { directory: directory.clone(), options, server, running })
    }

    async fn stop(self) {
        if let Some(postgres) = self.running.lock().await.take() {
            postgres.stop().await;
        }
    }
}

impl Service for EmbeddedPostgres {
    async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut postgres = match self.running.lock().await.take() {
            Some(postgres) => postgres,
            None => Postgres::start(&self.directory.postgres(), self.options.clone()).await?,
        };
        tokio::select! {
            () = postgres.exited() => Err("PostgreSQL exited by itself".into()),
            () = stop.cancelled() => {
                postgres.stop().await;
                Ok(())
            }
        }
    }
}

/// The embedded PostgreSQL for a command: that of the running shop, or started for the command.
pub(crate) enum EmbeddedServer {
    OfRunningShop(DatabaseServer),
    Started(EmbeddedPostgres),
}

impl EmbeddedServer {
    pub(crate) async fn connect(config: &Config) -> anyhow::Result<EmbeddedServer> {
        let directory = DataDirectory::choose(&config.embedded.directory)?;
        match Postgres::running(&directory.postgres())? {
            Some((socket, port)) => Ok(EmbeddedServer::OfRunningShop(server(&socket, port)?)),
            None => Ok(EmbeddedServer::Started(EmbeddedPostgres::start(config, &directory).await?)),
        }
    }

    pub(crate) fn server(&self) -> &DatabaseServer {
        match self {
            EmbeddedServer::OfRunningShop(server) => server,
            EmbeddedServer::Started(postgres) => &postgres.server,
        }
    }

    /// Stops the server if it was started for the command.
    pub(crate) async fn stop(self) {
        if let EmbeddedServer::Started(postgres) = self {
            postgres.stop().await;
        }
    }
}

/// The address of an embedded PostgreSQL: its socket.
fn server(socket_directory: &Path, port: u16) -> anyhow::Result<DatabaseServer> {
    let Some(host) = socket_directory.to_str() else {
        bail!("{} is not UTF-8: choose another data directory", socket_directory.display());
    };
    Ok(DatabaseServer {
        host: host.to_owned(),
        port,
        user: Postgres::USER.to_owned(),
        password: SecretString::default(),
        echo: false,
        connections: 1,
    })
}
