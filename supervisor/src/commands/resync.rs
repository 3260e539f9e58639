//! `shop resync`: asks running nodes, through their databases, to rebuild their replicated tables.

use std::time::Duration;

use anyhow::{bail, ensure};
use shop_persistence::Database;
use shop_persistence::resyncs::{self, Progress, Resync};

use super::databases::OpenDatabases;
use crate::config::Config;
use crate::nodes::Node;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The nodes that replicate tables of others.
pub fn replicating_nodes() -> Vec<Node> {
    Node::ALL.into_iter().filter(|node| node.spec().replicates).collect()
}

/// Has these nodes rebuild their replicated tables and waits until they have. Passes progress to
/// `print`, line by line.
///
/// # Errors
/// When a node replicates nothing, a database cannot be reached, or no node works on the request
/// for 30 s.
pub async fn resync(config: &Config, nodes: &[Node], print: impl Fn(String)) -> anyhow::Result<()> {
    for node in nodes {
        let name = node.name();
        ensure!(node.spec().replicates, "the {name} node has no replicated tables");
    }
    let databases = OpenDatabases::open(config, nodes).await?;
    let outcome = async {
        ensure!(!databases.is_shop_stopped(), "the shop is not running; start it, then try again");
        for (node, database) in databases.iter() {
            resync_one(*node, database, &print).await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    databases.close().await;
    outcome
}

async fn resync_one(node: Node, database: &Database, print: impl Fn(String)) -> anyhow::Result<()> {
    let node = node.name();
    let id = resyncs::ask(database).await?;
    print(format!("{node}: requested"));
    let mut printed = None;
    loop {
        let Some(Resync { progress, is_worked_at, done, trouble }) =
            resyncs::find(database, id).await?
        else {
            bail!("{node}: the request is gone, because its database was emptied; try again");
        };
        let Progress { users, movements, products } = progress;
        let counts = format!("{users} users, {products} products, {movements} sales");
        if done {
            print(format!("{node}: done: {counts}"));
            return Ok(());
        }
        ensure!(
            is_worked_at,
            "{node}: no running node works on the request; is one running on this database? The \
             request stays and is done at the next start"
        );
        let line = match &trouble {
            Some(error) => format!("{node}: retrying: {error}"),
            None => format!("{node}: {counts}"),
        };
        if printed.as_ref() != Some(&line) {
            print(line.clone());
            printed = Some(line);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
