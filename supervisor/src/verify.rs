//! `shop verify`: compares the books of the three nodes, in their databases.

use std::time::Duration;

use anyhow::{anyhow, ensure};
pub use shop_persistence::ledger::Ledger;
use shop_persistence::snapshot::LocalSnapshot;
use shop_persistence::{Database, DatabaseServer};

use crate::admin::Reached;
use crate::config::Config;
use crate::embedded::Home;
use crate::shop::{Node, cluster};

/// How long it looks again while the books differ.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a command needs of a database: for an owner of each kind, and one who reads.
const CONNECTIONS: u32 = 4;

/// Compares the books. Works on the databases, whether the shop runs or not, and changes nothing in them.
///
/// # Errors
/// When a database cannot be reached, or does not hold its node's tables.
pub async fn verify(config: &Config, patience: Duration) -> anyhow::Result<Ledger> {
    let opened = Opened::open(config, &Node::ALL).await?;
    let [auth, catalog, order] = Node::ALL.map(|node| opened.snapshot(node));
    let ledger = Ledger::take(&auth, &catalog, &order, patience).await;
    opened.close().await;
    Ok(ledger?)
}

/// Databases as they are: nothing is made or migrated.
pub(crate) struct Opened {
    databases: Vec<(Node, Database)>,
    embedded: Option<Reached>,
}

impl Opened {
    pub(crate) async fn open(config: &Config, nodes: &[Node]) -> anyhow::Result<Opened> {
        let embedded = match config.embedded.postgres {
            false => None,
            true => {
                let home = Home::choose(&config.embedded.directory)?;
                let folder = home.folder().display();
                ensure!(home.postgres().exists(), "no shop has run on the data in {folder} yet");
                Some(Reached::reach(config).await?)
            }
        };
        let mut opened = Opened { databases: vec![], embedded };
        for node in nodes {
            match opened.open_one(config, *node).await {
                Ok(database) => opened.databases.push((*node, database)),
                Err(error) => {
                    opened.close().await;
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    async fn open_one(&self, config: &Config, node: Node) -> anyhow::Result<Database> {
        let cluster = match &self.embedded {
            Some(reached) => reached.cluster().clone(),
            None => cluster(config, node, None),
        };
        let cluster = DatabaseServer { connections: CONNECTIONS, ..cluster };
        let name = &node.database(config).name;
        let at = format!("the database {name} at {}:{}", cluster.host, cluster.port);
        let keys = format!("{}.database.*", node.name());
        let database = Database::open_as_it_is(&cluster, name).await;
        let database = database.map_err(|error| {
            anyhow!("{at} does not let {} in: {error} (see {keys})", cluster.user)
        })?;
        ensure!(
            database.is_up_to_date(node.schema()).await?,
            "{at} does not hold the tables of the {} node as this program knows them: start the node once \
             (see {keys})",
            node.name()
        );
        Ok(database)
    }

    /// Whether the embedded PostgreSQL was started for this alone: then the shop does not run.
    pub(crate) fn is_asleep(&self) -> bool {
        matches!(self.embedded, Some(Reached::Started(_)))
    }

    /// The databases, of the nodes that were asked for.
    pub(crate) fn databases(&self) -> &[(Node, Database)] {
        &self.databases
    }

    fn snapshot(&self, node: Node) -> LocalSnapshot {
        let found = self.databases.iter().find(|(other, _)| *other == node);
        let (_, database) = found.expect("all were opened");
        LocalSnapshot::new(database, node.schema())
    }

    pub(crate) async fn close(self) {
        for (_, database) in self.databases {
            database.close().await;
        }
        if let Some(Reached::Started(postgres)) = self.embedded {
            postgres.stop().await;
        }
    }
}
