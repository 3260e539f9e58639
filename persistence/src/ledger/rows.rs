//! Reading the rows of a snapshot one by one, and their checksum.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::TableChecksum;
use crate::Result;
use crate::ids::{ProductId, UserId};
use crate::snapshot::{FIRST, FIRST_PRODUCT, MAX_PAGE_ROWS, Snapshot, Stock, UserRecord};

/// A row that snapshots contain in pages of ascending ids.
pub(super) trait Row: Sized {
    type Id: Ord + Copy;
    const FIRST: Self::Id;
    fn id(&self) -> Self::Id;
    async fn page(snapshot: &impl Snapshot, after: Self::Id, before: Uuid) -> Result<Vec<Self>>;
}

impl Row for UserRecord {
    type Id = UserId;
    const FIRST: UserId = FIRST;

    fn id(&self) -> UserId {
        self.id
    }

    async fn page(snapshot: &impl Snapshot, after: UserId, _: Uuid) -> Result<Vec<UserRecord>> {
        snapshot.users(after, MAX_PAGE_ROWS).await
    }
}

impl Row for Stock {
    type Id = ProductId;
    const FIRST: ProductId = FIRST_PRODUCT;

    fn id(&self) -> ProductId {
        self.id
    }

    async fn page(snapshot: &impl Snapshot, after: ProductId, before: Uuid) -> Result<Vec<Stock>> {
        snapshot.products(after, MAX_PAGE_ROWS, before).await
    }
}

/// The rows of a snapshot in ascending ids, of which one page is in memory.
pub(super) struct Rows<'s, S, R: Row> {
    snapshot: &'s S,
    before: Uuid,
    page: std::iter::Peekable<std::vec::IntoIter<R>>,
    after: R::Id,
    ended: bool,
}

impl<'s, S: Snapshot, R: Row> Rows<'s, S, R> {
    pub(super) fn of(snapshot: &'s S, before: Uuid) -> Rows<'s, S, R> {
        let page = vec![].into_iter().peekable();
        Rows { snapshot, before, page, after: R::FIRST, ended: false }
    }

    /// The id of the next row, if there is one.
    pub(super) async fn next_id(&mut self) -> Result<Option<R::Id>> {
        if self.page.peek().is_none() && !self.ended {
            let page = R::page(self.snapshot, self.after, self.before).await?;
            self.ended = (page.len() as i64) < MAX_PAGE_ROWS;
            self.after = page.last().map_or(self.after, R::id);
            self.page = page.into_iter().peekable();
        }
        Ok(self.page.peek().map(R::id))
    }

    /// The next row, if it has this id.
    pub(super) fn take(&mut self, id: R::Id) -> Option<R> {
        self.page.next_if(|row| row.id() == id)
    }
}

/// Equal for equal rows in the same order, within one version of the program.
#[derive(Default)]
pub(super) struct Checksum {
    count: u64,
    hasher: DefaultHasher,
}

impl Checksum {
    pub(super) fn add(&mut self, row: impl Hash) {
        self.count += 1;
        row.hash(&mut self.hasher);
    }

    pub(super) fn of(self, what: &'static str, node: &'static str) -> TableChecksum {
        let checksum = format!("{:016x}", self.hasher.finish());
        TableChecksum { what, node, count: self.count, checksum }
    }
}
