//! The ledger: reconciliation of the three nodes' snapshots. Each difference is reported by
//! subject, node and figures.

mod compare;
mod rows;
mod table;

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::Result;
use crate::ids::ProductId;
use crate::snapshot::{Snapshot, Stock};

/// The pause between two attempts while the snapshots differ.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The maximum number of products without a difference that are listed.
const MAX_PRODUCTS: usize = 200;

/// The maximum number of differences that are listed; further ones are counted.
const MAX_DIFFERENCES: usize = 1000;

/// The figures of the three nodes, and how they differ.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Ledger {
    /// Whether there is no difference.
    pub balanced: bool,
    /// Stock by product: the first 200, and all that differ.
    pub products: Vec<ProductFigures>,
    /// The number of products.
    pub products_in_all: usize,
    /// The number of users and products that each node knows, and a checksum of them.
    pub copies: Vec<TableChecksum>,
    /// The backlog of each node's outbox.
    pub outboxes: Vec<OutboxBacklog>,
    /// Facts that are not differences.
    pub notes: Vec<String>,
    /// The differences, at most 1000.
    pub differences: Vec<Difference>,
    /// The number of further differences.
    pub more_differences: usize,
}

/// A product's stock on both nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProductFigures {
    /// The product.
    pub product_id: ProductId,
    /// Its name.
    pub name: String,
    /// The catalog's figures.
    pub catalog: Option<StockFigures>,
    /// The order node's figures.
    pub order: Option<StockFigures>,
}

/// A product's stock on one node, in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct StockFigures {
    /// All that was ever stocked.
    pub stocked: i64,
    /// All that was sold, by its movements. The most recent sales may be known to one node only.
    pub sold: i64,
    /// What is left.
    pub left: i64,
}

impl From<&Stock> for StockFigures {
    fn from(Stock { stocked, moved, left, .. }: &Stock) -> StockFigures {
        StockFigures { stocked: *stocked, sold: stocked - moved, left: *left }
    }
}

/// The number of rows of a table, and their checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TableChecksum {
    /// `users` or `products`.
    pub what: &'static str,
    /// The node.
    pub node: &'static str,
    /// The number of rows, without deleted users.
    pub count: u64,
    /// Equal on nodes with equal rows.
    pub checksum: String,
}

/// The backlog of a node's outbox.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OutboxBacklog {
    /// The node.
    pub node: &'static str,
    /// The number of events that the broker has not confirmed.
    pub length: i64,
    /// The age of the oldest of them, in seconds.
    pub age_seconds: f64,
}

/// Figures that should be equal and are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// What differs, such as `product 7`.
    pub subject: String,
    /// The node whose figures differ.
    #[serde(rename = "where")]
    pub node: &'static str,
    /// The figures.
    pub detail: String,
}

impl Difference {
    fn new(subject: impl Display, node: &'static str, detail: String) -> Difference {
        Difference { subject: subject.to_string(), node, detail }
    }

    /// Identifies the difference in a further attempt, whose figures may have changed.
    fn key(&self) -> (String, &'static str) {
        (self.subject.clone(), self.node)
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.detail)
    }
}

impl Ledger {
    /// Compares the snapshots of the three nodes. Events in flight cause temporary differences: it
    /// retries until `timeout` is over, and reports what differed in every attempt.
    ///
    /// # Errors
    /// If a snapshot cannot be read.
    pub async fn take(
        auth: &impl Snapshot,
        catalog: &impl Snapshot,
        order: &impl Snapshot,
        timeout: Duration,
    ) -> Result<Ledger> {
        let until = Instant::now() + timeout;
        let mut ledger = compare::compare(auth, catalog, order).await?;
        let mut lasting: HashSet<_> = ledger.differences.iter().map(Difference::key).collect();
        while !lasting.is_empty() && Instant::now() < until {
            tokio::time::sleep(RETRY_INTERVAL).await;
            ledger = compare::compare(auth, catalog, order).await?;
            let current: HashSet<_> = ledger.differences.iter().map(Difference::key).collect();
            lasting.retain(|key| current.contains(key));
        }
        ledger.differences.retain(|difference| lasting.contains(&difference.key()));
        if lasting.is_empty() {
            ledger.more_differences = 0;
        }
        ledger.balanced = ledger.differences.is_empty();
        Ok(ledger)
    }

    fn add(&mut self, differences: impl IntoIterator<Item = Difference>) {
        for difference in differences {
            if self.differences.len() < MAX_DIFFERENCES {
                self.differences.push(difference);
            } else {
                self.more_differences += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
