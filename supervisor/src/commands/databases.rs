//! The databases of a command: opened as they are, neither created nor migrated.

use anyhow::{anyhow, ensure};
use shop_persistence::{Database, DatabaseServer};

use crate::config::Config;
use crate::embedded::{DataDirectory, EmbeddedServer};
use crate::nodes::Node;
use crate::shop::databases::configured_server;

/// Connections of a command to one database: one for each actor, and one to read.
const CONNECTIONS: u32 = 4;

/// Open databases of nodes, whether the shop runs or not.
pub struct OpenDatabases {
    databases: Vec<(Node, Database)>,
    embedded: Option<EmbeddedServer>,
}

impl OpenDatabases {
    pub async fn open(config: &Config, nodes: &[Node]) -> anyhow::Result<OpenDatabases> {
        let embedded = if config.embedded.postgres {
            let directory = DataDirectory::choose(&config.embedded.directory)?;
            let path = directory.path().display();
            ensure!(directory.postgres().exists(), "no shop has run on the data in {path} yet");
            Some(EmbeddedServer::connect(config).await?)
        } else {
            None
        };
        let mut open = OpenDatabases { databases: vec![], embedded };
        for node in nodes {
            match open.open_one(config, *node).await {
                Ok(database) => open.databases.push((*node, database)),
                Err(error) => {
                    open.close().await;
                    return Err(error);
                }
            }
        }
        Ok(open)
    }

    async fn open_one(&self, config: &Config, node: Node) -> anyhow::Result<Database> {
        let server = match &self.embedded {
            Some(embedded) => embedded.server().clone(),
            None => configured_server(config, node),
        };
        let server = DatabaseServer { connections: CONNECTIONS, ..server };
        let spec = node.spec();
        let database = &node.settings(config).database.name;
        let place = format!("the database {database} at {}:{}", server.host, server.port);
        let keys = format!("{}.database.*", spec.name);
        let opened = Database::open_as_it_is(&server, database).await;
        let opened = opened.map_err(|error| {
            anyhow!("cannot open {place} as {}: {error} (see {keys})", server.user)
        })?;
        ensure!(
            opened.is_up_to_date(spec.schema).await?,
            "{place} does not have the tables of the {} node in this program's version: start the \
             node once (see {keys})",
            spec.name
        );
        Ok(opened)
    }

    /// Whether the embedded PostgreSQL was started for this command, because the shop does not run.
    pub fn is_shop_stopped(&self) -> bool {
        matches!(self.embedded, Some(EmbeddedServer::Started(_)))
    }

    /// The nodes and their databases.
    pub fn iter(&self) -> impl Iterator<Item = &(Node, Database)> {
        self.databases.iter()
    }

    pub async fn close(self) {
        for (_, database) in self.databases {
            database.close().await;
        }
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}
