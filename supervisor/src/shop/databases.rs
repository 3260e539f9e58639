//! The nodes' databases: where they are, and how long they stay open.

use std::sync::Arc;

use anyhow::anyhow;
use shop_persistence::{Database, DatabaseServer};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{HandlerResult, Service};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::embedded::EmbeddedPostgres;
use crate::nodes::Node;

/// Keeps the databases open for the nodes. Closes them after the nodes have stopped and before the
/// embedded PostgreSQL does.
#[derive(Clone, Debug)]
pub struct Databases(pub Vec<Database>);

impl Service for Databases {
    async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        stop.cancelled().await;
        for database in &self.0 {
            database.close().await;
        }
        Ok(())
    }
}

/// Opens and migrates the database of each node.
pub async fn open_all(
    config: &Config,
    nodes: &[Node],
    embedded: Option<&EmbeddedPostgres>,
) -> anyhow::Result<Vec<Database>> {
    let mut databases = vec![];
    for node in nodes {
        let server = match embedded {
            Some(embedded) => {
                let database = node.settings(config).database;
                let (echo, connections) = (database.echo, database.max_connections);
                DatabaseServer { echo, connections, ..embedded.server.clone() }
            }
            None => configured_server(config, *node),
        };
        databases.push(open(config, *node, &server).await?);
    }
    Ok(databases)
}

/// The server of a node's database, when PostgreSQL is not embedded.
pub fn configured_server(config: &Config, node: Node) -> DatabaseServer {
    let database = node.settings(config).database;
    DatabaseServer {
        host: database.host.clone(),
        port: database.port,
        user: database.user.clone(),
        password: database.password.clone(),
        echo: database.echo,
        connections: database.max_connections,
    }
}

/// Opens and migrates the database of one node. The error names the keys that say where it is.
pub async fn open(
    config: &Config,
    node: Node,
    server: &DatabaseServer,
) -> anyhow::Result<Database> {
    let spec = node.spec();
    let database = &node.settings(config).database.name;
    Database::open(server, database, spec.schema).await.map_err(|error| {
        let DatabaseServer { host, port, user, .. } = server;
        anyhow!(
            "cannot open the database {database} at {host}:{port} as {user}: {error} (see {}.database.*)",
            spec.name
        )
    })
}
