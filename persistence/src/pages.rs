//! Lists: which part of one is read, and what changed in those that are kept ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgListener;

use crate::{Database, Result};

/// A part of a list: at most `limit` of what follows `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest<C> {
    /// The place behind which it begins; without it, at the beginning.
    pub after: Option<C>,
    /// At most so many.
    pub limit: i64,
}

/// Counts what changes in the lists of a database, here or by another replica. Whoever keeps a list ready notes the count
/// before the list is read: it is as it was for as long as the count is.
#[derive(Debug, Clone, Default)]
pub struct ChangeCounter(Arc<AtomicU64>);

impl ChangeCounter {
    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Hears what other replicas change in the lists.
#[derive(Debug)]
pub struct NotificationListener {
    database: Database,
    listener: PgListener,
}

impl NotificationListener {
    /// Opens a connection of its own.
    pub async fn open(database: &Database) -> Result<NotificationListener> {
        let mut listener = database.listener().await?;
        crate::database::within(listener.listen("lists")).await?;
        database.changes().increment(); // what was said before now was not heard
        Ok(NotificationListener { database: database.clone(), listener })
    }

    /// Waits for the next change of another replica, and counts it. Where one may have been missed that counts as well.
    pub async fn recv(&mut self) -> Result<()> {
        while let Some(said) = self.listener.try_recv().await?
            && self.database.is_own(said.payload())
        {}
        self.database.changes().increment();
        Ok(())
    }
}
