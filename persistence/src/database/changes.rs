//! Changes of cached lists: counted in this process, and notified among the replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgListener;

use super::{Database, within};
use crate::Result;

/// Counts the commits that change cached lists, of this process and of other replicas. A cache
/// reads the count before it reads a list: the list is valid while the count stays the same.
#[derive(Debug, Clone, Default)]
pub struct ChangeCounter(Arc<AtomicU64>);

impl ChangeCounter {
    /// The number of changes so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Receives the changes that other replicas commit, and counts them.
#[derive(Debug)]
pub struct ChangeSubscription {
    database: Database,
    listener: PgListener,
}

impl ChangeSubscription {
    /// Listens on a connection of its own.
    pub async fn open(database: &Database) -> Result<ChangeSubscription> {
        let mut listener = database.listener().await?;
        within(listener.listen("lists")).await?;
        database.changes.increment(); // changes may have been committed before
        Ok(ChangeSubscription { database: database.clone(), listener })
    }

    /// Waits for the next change of another replica and counts it. A reconnection counts as well,
    /// because changes may have been missed.
    pub async fn recv(&mut self) -> Result<()> {
        while let Some(change) = self.listener.try_recv().await?
            && change.payload().parse() == Ok(self.database.replica)
        {}
        self.database.changes.increment();
        Ok(())
    }
}
