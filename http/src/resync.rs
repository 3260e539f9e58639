//! The resync: rebuilds a node's replicated tables from the snapshots of the other nodes. It sends
//! the rows to the actors that also apply events; versions and movement ids make it safe beside
//! them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shop_actors::{Error, Result, catalog, customers, orders};
use shop_persistence::catalog::Offer;
use shop_persistence::customers::UserUpdate;
use shop_persistence::resyncs::{self, Progress, ResyncLease};
use shop_persistence::snapshot::{
    FIRST, FIRST_PRODUCT, LocalSnapshot, Snapshot, Stock, UserRecord,
};
use shop_persistence::stock;
use shop_persistence::{Database, Schema};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Addr, Backoff, HandlerResult, Service};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::peers::{Peer, Peers};

/// The interval between two checks whether a resync is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The number of rows in one message to an actor.
const PAGE_SIZE: i64 = 500;

/// Checks whether a resync is due, and carries it out.
#[derive(Debug, Clone)]
pub struct Resync {
    /// The node's database.
    pub database: Database,
    /// The tables to rebuild.
    pub tables: ReplicatedTables,
    /// Their sources.
    pub peers: Peers,
}

/// A node's replicated tables, by the actors that write them.
#[derive(Debug, Clone)]
pub enum ReplicatedTables {
    /// The catalog node's: users, and the sales of the order node.
    Catalog(Addr<customers::Msg>, Addr<catalog::Msg>),
    /// The order node's: users, products, and the sales that the catalog node has.
    Order(Addr<customers::Msg>, Addr<orders::Msg>),
}

/// The check for a database that was restored from a backup, once per start.
#[derive(Debug, Default)]
struct RestoreCheck {
    /// The newest sale in the database at the start.
    newest_sale: Option<Option<Uuid>>,
    is_done: bool,
}

impl Service for Resync {
    /// May be cancelled anywhere: an unfinished resync starts over.
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        stop.run_until_cancelled(self.check_forever(&actor_metrics)).await;
        Ok(())
    }
}

impl Resync {
    async fn check_forever(&self, actor_metrics: &Arc<ActorMetrics>) {
        let mut backoff = Backoff::default();
        let mut logged = String::new();
        let mut restore = RestoreCheck::default();
        loop {
            let pause = match actor_metrics.measure("Check", self.check(&mut restore)).await {
                Ok(()) => {
                    logged.clear();
                    CHECK_INTERVAL
                }
                Err(error) => {
                    // An outage may last: the same error is logged once.
                    let error = error.to_string();
                    if error != logged {
                        tracing::warn!(error, "the resync fails and is retried");
                        logged = error;
                    }
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Resyncs if it is due. Once after the start, also checks whether the database was restored.
    async fn check(&self, restore: &mut RestoreCheck) -> Result<()> {
        let newest_sale = match restore.newest_sale {
            Some(newest_sale) => newest_sale,
            // As early as possible, before this process sells anything.
            None => *restore.newest_sale.insert(self.newest_sale().await?),
        };
        self.resync_if_due().await?;
        if !restore.is_done {
            if self.is_restored(newest_sale).await? {
                tracing::warn!(
                    "the catalog node has sales that this database lacks: was it restored?"
                );
                resyncs::ask(&self.database).await?;
            }
            restore.is_done = true;
        }
        Ok(())
    }

    /// The newest sale in the database of an order node.
    async fn newest_sale(&self) -> Result<Option<Uuid>> {
        let ReplicatedTables::Order(..) = self.tables else { return Ok(None) };
        let mut session = self.database.session();
        Ok(session.within(async |connection| resyncs::newest_sale(connection).await).await?)
    }

    /// Whether this is an order node whose database is older than the sales that the catalog node
    /// has.
    async fn is_restored(&self, newest_sale: Option<Uuid>) -> Result<bool> {
        let ReplicatedTables::Order(..) = self.tables else { return Ok(false) };
        let newer = self.peers.catalog.movements(newest_sale.unwrap_or(FIRST), PAGE_SIZE).await?;
        // What other replicas have sold meanwhile is in the database.
        let mut session = self.database.session();
        let has_all = async |connection: &mut _| resyncs::knows_all(connection, &newer).await;
        Ok(!session.within(has_all).await?)
    }

    /// Resyncs if it is due and no other replica does it.
    async fn resync_if_due(&self) -> Result<()> {
        let Some(mut lease) = ResyncLease::take(&self.database).await? else { return Ok(()) };
        let mut progress = Progress::default();
        match self.resync(&mut lease, &mut progress).await {
            Ok(()) => {
                lease.finish().await?;
                let Progress { users, movements, products } = progress;
                tracing::info!(users, movements, products, "the replicated tables are rebuilt");
                Ok(())
            }
            Err(error) => {
                lease.fail(&error.to_string()).await?;
                Err(error)
            }
        }
    }

    async fn resync(&self, lease: &mut ResyncLease, progress: &mut Progress) -> Result<()> {
        match &self.tables {
            ReplicatedTables::Catalog(customers, catalog) => {
                let local = LocalSnapshot::new(&self.database, Schema::Catalog);
                copy_users(&local, &self.peers.auth, customers, lease, progress).await?;
                copy_sales(&self.peers.order, catalog, lease, progress).await
            }
            ReplicatedTables::Order(customers, orders) => {
                let local = LocalSnapshot::new(&self.database, Schema::Order);
                // First the sales, so that sold stock is for sale again as shortly as possible.
                restore_sales(&self.peers.catalog, orders, lease, progress).await?;
                copy_users(&local, &self.peers.auth, customers, lease, progress).await?;
                copy_products(&self.peers.catalog, orders, lease, progress).await
            }
        }
    }
}

/// Updates all users, and deletes those that the auth node no longer has. The first resync of a
/// database deletes none: users that it has are newer than the snapshot.
async fn copy_users(
    local: &LocalSnapshot,
    auth: &Peer,
    customers: &Addr<customers::Msg>,
    lease: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST;
    loop {
        // The local page is read first: a user in it who is missing in the other one was deleted.
        let known = match lease.is_first() {
            true => vec![],
            false => local.users(after, PAGE_SIZE).await?,
        };
        let users = auth.users(after, PAGE_SIZE).await?;
        let ends = [&known, &users].map(|page| end_of(page));
        let end = ends.into_iter().flatten().min();
        let updates = user_updates(known, users, end.unwrap_or(Uuid::max()));
        if !updates.is_empty() {
            progress.users += updates.iter().filter(|update| update.user.is_some()).count() as i64;
            let apply = || customers.ask((), |reply| customers::Msg::Apply(updates.clone(), reply));
            retry_overloaded(apply).await?;
        }
        lease.work(*progress).await?;
        match end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

/// The last id of a full page, which others may follow.
fn end_of(page: &[UserRecord]) -> Option<Uuid> {
    page.last().filter(|_| page.len() as i64 == PAGE_SIZE).map(|user| user.id)
}

/// The updates of users with ids up to `end`: the current state of each, and the deletion of those
/// that the auth node no longer has. The version of a deletion is not known; it is at least the next
/// one.
fn user_updates(known: Vec<UserRecord>, users: Vec<UserRecord>, end: Uuid) -> Vec<UserUpdate> {
    let is_deleted = |known: &&UserRecord| {
        !known.deleted && users.binary_search_by_key(&known.id, |user| user.id).is_err()
    };
    let deleted = known.iter().filter(|known| known.id <= end).filter(is_deleted);
    let deletion =
        |known: &UserRecord| UserUpdate { id: known.id, version: known.version + 1, user: None };
    let mut updates: Vec<_> = deleted.map(deletion).collect();
    let users = users.into_iter().filter(|user| user.id <= end);
    updates.extend(users.map(|UserRecord { id, version, user, .. }| UserUpdate {
        id,
        version,
        user,
    }));
    updates
}

/// Applies all sales of the order node to the catalog, and skips the product ids that it has.
async fn copy_sales(
    order: &Peer,
    catalog: &Addr<catalog::Msg>,
    lease: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    if let Some(newest) = order.summary().await?.newest_product {
        let advance = || catalog.ask((), |reply| catalog::Msg::AdvanceIds(newest, reply));
        retry_overloaded(advance).await?;
    }
    let mut after = FIRST;
    loop {
        let page = order.movements(after, PAGE_SIZE).await?;
        let Some(last) = page.last().map(|movement| movement.id) else { return Ok(()) };
        let apply = || catalog.ask((), |reply| catalog::Msg::ApplyMovements(page.clone(), reply));
        retry_overloaded(apply).await?;
        progress.movements += page.len() as i64;
        lease.work(*progress).await?;
        after = last;
    }
}

/// Restores the sales that the catalog node has and the order node's database lacks.
async fn restore_sales(
    catalog: &Peer,
    orders: &Addr<orders::Msg>,
    lease: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST;
    loop {
        let page = catalog.movements(after, PAGE_SIZE).await?;
        let Some(last) = page.last().map(|movement| movement.id) else { return Ok(()) };
        let restore = || orders.ask((), |reply| orders::Msg::TakeOver(page.clone(), reply));
        progress.movements += retry_overloaded(restore).await?;
        lease.work(*progress).await?;
        after = last;
    }
}

/// Updates all products of the order node.
async fn copy_products(
    catalog: &Peer,
    orders: &Addr<orders::Msg>,
    lease: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST_PRODUCT;
    loop {
        let page = catalog.products(after, PAGE_SIZE, FIRST).await?;
        let Some(last) = page.last().map(|product| product.id) else { return Ok(()) };
        let updates: Vec<_> = page.into_iter().map(product_update).collect();
        match apply_products(orders, &updates).await {
            // One product is in conflict: it is left out, so that the others are not delayed.
            Err(Error::Conflict(_)) => {
                for update in updates.chunks(1) {
                    match apply_products(orders, update).await {
                        Err(Error::Conflict(reason)) => {
                            let id = update[0].offer.id;
                            tracing::warn!(product.id = id, reason, "a product is left out");
                        }
                        outcome => outcome?,
                    }
                }
            }
            outcome => outcome?,
        }
        progress.products += updates.len() as i64;
        lease.work(*progress).await?;
        after = last;
    }
}

async fn apply_products(
    orders: &Addr<orders::Msg>,
    updates: &[stock::ProductUpdate],
) -> Result<()> {
    let apply = || {
        let updates = updates.to_vec();
        orders.ask((), |reply| orders::Msg::ApplyProducts(updates, reply))
    };
    retry_overloaded(apply).await
}

fn product_update(stock: Stock) -> stock::ProductUpdate {
    let Stock { id, name, price, category_id, version, stocked: quantity, .. } = stock;
    stock::ProductUpdate { version, offer: Offer { id, name, price, quantity, category_id } }
}

/// Asks an actor, with retries while it is overloaded.
async fn retry_overloaded<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    let mut backoff = Backoff::default();
    loop {
        match ask().await {
            Err(Error::Overloaded(_)) => tokio::time::sleep(backoff.next_delay()).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use shop_persistence::users::{Role, User};

    use super::*;

    fn user(id: u128, version: i64) -> UserRecord {
        let id = Uuid::from_u128(id);
        let (username, email) = ("anna".to_owned(), "anna@example.com".to_owned());
        let user = Some(User { id, username, email, role: Role::User });
        UserRecord { id, version, user, deleted: false }
    }

    fn deleted(id: u128, version: i64) -> UserRecord {
        UserRecord { deleted: true, ..user(id, version) }
    }

    #[test]
    fn users_missing_in_the_snapshot_are_deleted() {
        let known = vec![user(1, 4), deleted(2, 3), user(3, 5), user(9, 1)];
        let users = vec![user(3, 6), user(5, 1), user(7, 1)];
        let updates: Vec<_> = user_updates(known, users, Uuid::from_u128(5))
            .iter()
            .map(|update| (update.id.as_u128(), update.version, update.user.is_some()))
            .collect();
        assert_eq!(updates, [(1, 5, false), (3, 6, true), (5, 1, true)], "and none past the end");
    }
}
