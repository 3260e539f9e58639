//! `shop resync`: asks nodes, through their databases, to make their copies anew, and waits until they are.

use std::time::Duration;

use anyhow::{bail, ensure};
use shop_persistence::Database;
use shop_persistence::resyncs::{self, Progress, Resync};

use crate::config::Config;
use crate::shop::Node;
use crate::verify::Opened;

/// How often it looks how far they are.
const LOOK: Duration = Duration::from_millis(100);

/// Has the copies of these nodes made anew. Says how far that is, line by line.
///
/// # Errors
/// When a database cannot be reached, or no node works at it for half a minute.
pub async fn resync(config: &Config, nodes: &[Node], say: impl Fn(String)) -> anyhow::Result<()> {
    let opened = Opened::open(config, nodes).await?;
    let outcome = async {
        ensure!(!opened.is_asleep(), "the shop does not run; start it, then ask again");
        for (node, database) in opened.databases() {
            resync_one(*node, database, &say).await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    opened.close().await;
    outcome
}

async fn resync_one(node: Node, database: &Database, say: impl Fn(String)) -> anyhow::Result<()> {
    let node = node.name();
    let id = resyncs::ask(database).await?;
    say(format!("{node}: asked"));
    let mut said = None;
    loop {
        let Some(Resync { progress, is_worked_at, done, trouble }) =
            resyncs::find(database, id).await?
        else {
            bail!("{node}: its database was emptied meanwhile; ask again");
        };
        let Progress { users, movements, products } = progress;
        let figures = format!("{users} users, {products} products, {movements} sales");
        if done {
            say(format!("{node}: done: {figures}"));
            return Ok(());
        }
        ensure!(
            is_worked_at,
            "{node}: no node works at it: does one run on this database? It stays asked for, and is done at the next start"
        );
        let line = match &trouble {
            Some(trouble) => format!("{node}: waits: {trouble}"),
            None => format!("{node}: {figures}"),
        };
        if said.as_ref() != Some(&line) {
            say(line.clone());
            said = Some(line);
        }
        tokio::time::sleep(LOOK).await;
    }
}
