//! `shop verify`: reconciles the databases of all nodes.

use std::time::Duration;

use anyhow::Context;
pub use shop_persistence::ledger::Ledger;
use shop_persistence::snapshot::LocalSnapshot;

use super::databases::OpenDatabases;
use crate::config::Config;
use crate::nodes::Node;

/// How long differences are checked again before they are reported.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Reconciles the databases, whether the shop runs or not, and changes nothing. Differences that
/// disappear within `timeout` were events in flight and are not reported.
///
/// # Errors
/// When a database cannot be reached or does not have its node's tables.
pub async fn verify(config: &Config, timeout: Duration) -> anyhow::Result<Ledger> {
    let databases = OpenDatabases::open(config, &Node::ALL).await?;
    let snapshots: Vec<_> = databases
        .iter()
        .map(|(node, database)| LocalSnapshot::new(database, node.spec().schema))
        .collect();
    let [auth, catalog, order] = <[_; 3]>::try_from(snapshots).ok().context("three databases")?;
    let ledger = Ledger::take(&auth, &catalog, &order, timeout).await;
    databases.close().await;
    Ok(ledger?)
}
