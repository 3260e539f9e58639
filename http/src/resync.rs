//! The resync: makes a node's copies of what others own anew, from their books, through the same owners as the
//! events that flow meanwhile. Versions and the movements' ids make it harmless beside them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shop_actors::{catalog, customers, orders};
use shop_persistence::catalog::Offer;
use shop_persistence::customers::UserUpdate;
use shop_persistence::resyncs::{self, Progress, ResyncLease};
use shop_persistence::snapshot::{
    FIRST, FIRST_PRODUCT, LocalSnapshot, Snapshot, Stock, UserRecord,
};
use shop_persistence::stock;
use shop_persistence::{Database, Error, Result, Schema};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Addr, Backoff, HandlerResult, Service};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::peers::{Peer, Peers};

/// How often it looks whether a resync is due.
const LOOK: Duration = Duration::from_secs(1);

/// How many rows an owner is told of in one message.
const PAGE: i64 = 500;

/// Looks whether this node's copies must be made anew, and makes them.
#[derive(Debug, Clone)]
pub struct Resync {
    /// The node's database.
    pub database: Database,
    /// What is copied, and who owns the copies.
    pub copies: Copies,
    /// Where from.
    pub peers: Peers,
}

/// Whether the database was compared with what the catalog remembers, and what its newest sale was at the start.
#[derive(Debug, Default)]
struct Compared {
    newest: Option<Option<Uuid>>,
    done: bool,
}

/// A node's copies.
#[derive(Debug, Clone)]
pub enum Copies {
    /// The catalog's: users, and what the order node sold.
    Catalog(Addr<customers::Msg>, Addr<catalog::Msg>),
    /// The order node's: users, products, and what the catalog remembers as sold.
    Order(Addr<customers::Msg>, Addr<orders::Msg>),
}

impl Service for Resync {
    /// To cut it off anywhere is harmless: what is not done starts over.
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        stop.run_until_cancelled(self.keep_looking(&actor_metrics)).await;
        Ok(())
    }
}

impl Resync {
    async fn keep_looking(&self, actor_metrics: &Arc<ActorMetrics>) {
        let mut backoff = Backoff::default();
        let mut said = String::new();
        let mut compared = Compared::default();
        loop {
            let pause = match actor_metrics.measure("Look", self.look(&mut compared)).await {
                Ok(()) => {
                    said.clear();
                    LOOK
                }
                Err(error) => {
                    // Whoever is away may be so for long: it is said once.
                    let error = error.to_string();
                    if error != said {
                        tracing::warn!(error, "the resync waits, and tries again");
                        said = error;
                    }
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Resyncs, if that is due. Once after the start, sees by itself whether it is.
    async fn look(&self, compared: &mut Compared) -> Result<()> {
        let newest = match compared.newest {
            Some(newest) => newest,
            // Before anything new is sold, or as soon as can be.
            None => *compared.newest.insert(self.newest_sale().await?),
        };
        self.when_due().await?;
        if !compared.done {
            if self.is_restored(newest).await? {
                tracing::warn!(
                    "the catalog remembers sales that this database does not: was it restored?"
                );
                resyncs::ask(&self.database).await?;
            }
            compared.done = true;
        }
        Ok(())
    }

    /// The newest sale that this database knows of, if it is an order node's.
    async fn newest_sale(&self) -> Result<Option<Uuid>> {
        let Copies::Order(..) = self.copies else { return Ok(None) };
        let mut session = self.database.session();
        session.within(async |it| resyncs::newest_sale(it).await).await
    }

    /// Whether this is an order node on a database that is older than what the catalog remembers of its sales.
    async fn is_restored(&self, newest: Option<Uuid>) -> Result<bool> {
        let Copies::Order(..) = self.copies else { return Ok(false) };
        let mut session = self.database.session();
        let newer = self.peers.catalog.movements(newest.unwrap_or(FIRST), PAGE).await?;
        // Another replica may have sold more meanwhile: that is known here.
        Ok(!session.within(async |it| resyncs::knows_all(it, &newer).await).await?)
    }

    /// Resyncs, if that is due and no other replica is at it.
    async fn when_due(&self) -> Result<()> {
        let Some(mut turn) = ResyncLease::take(&self.database).await? else { return Ok(()) };
        let mut progress = Progress::default();
        match self.copy(&mut turn, &mut progress).await {
            Ok(()) => {
                turn.finish().await?;
                let Progress { users, movements, products } = progress;
                tracing::info!(users, movements, products, "the copies are made anew");
                Ok(())
            }
            Err(error) => {
                turn.fail(&error.to_string()).await?;
                Err(error)
            }
        }
    }

    async fn copy(&self, turn: &mut ResyncLease, progress: &mut Progress) -> Result<()> {
        match &self.copies {
            Copies::Catalog(customers, catalog) => {
                let own = LocalSnapshot::new(&self.database, Schema::Catalog);
                copy_people(&own, &self.peers.auth, customers, turn, progress).await?;
                copy_sales(&self.peers.order, catalog, turn, progress).await
            }
            Copies::Order(customers, orders) => {
                let own = LocalSnapshot::new(&self.database, Schema::Order);
                // The sales before all else: what is sold must not be for sale again any longer than need be.
                take_over_sales(&self.peers.catalog, orders, turn, progress).await?;
                copy_people(&own, &self.peers.auth, customers, turn, progress).await?;
                copy_products(&self.peers.catalog, orders, turn, progress).await
            }
        }
    }
}

/// Tells the owner of customers of all users, and of those who are gone. On a new database nobody is: whoever is known
/// there came with the news, and so will it be said when they go.
async fn copy_people(
    own: &LocalSnapshot,
    auth: &Peer,
    customers: &Addr<customers::Msg>,
    turn: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST;
    loop {
        // Our own first: whoever is known here and then not there is gone, not just new.
        let known = match turn.is_first() {
            true => vec![],
            false => own.users(after, PAGE).await?,
        };
        let users = auth.users(after, PAGE).await?;
        let ends = [&known, &users].map(|page| end_of(page));
        let end = ends.into_iter().flatten().min();
        let news = news_of(known, users, end.unwrap_or(Uuid::max()));
        if !news.is_empty() {
            progress.users += news.iter().filter(|news| news.user.is_some()).count() as i64;
            tell(|| customers.ask((), |reply| customers::Msg::Apply(news.clone(), reply))).await?;
        }
        turn.work(*progress).await?;
        match end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

/// The last id of a page that others follow.
fn end_of(page: &[UserRecord]) -> Option<Uuid> {
    page.last().filter(|_| page.len() as i64 == PAGE).map(|person| person.id)
}

/// What is to be heard of users up to `end`: what they are like, and who of those known is gone. Nobody knows any more
/// with which version somebody went; it was at least the next one.
fn news_of(known: Vec<UserRecord>, users: Vec<UserRecord>, end: Uuid) -> Vec<UserUpdate> {
    let gone = |person: &&UserRecord| {
        !person.deleted && users.binary_search_by_key(&person.id, |user| user.id).is_err()
    };
    let gone = known.iter().filter(|person| person.id <= end).filter(gone);
    let gone =
        gone.map(|person| UserUpdate { id: person.id, version: person.version + 1, user: None });
    let mut news: Vec<_> = gone.collect();
    let users = users.into_iter().filter(|user| user.id <= end);
    news.extend(users.map(|UserRecord { id, version, user, .. }| UserUpdate { id, version, user }));
    news
}

/// Tells the owner of the catalog of all that the order node sold, and which ids of products are taken.
async fn copy_sales(
    order: &Peer,
    catalog: &Addr<catalog::Msg>,
    turn: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    if let Some(newest) = order.summary().await?.newest_product {
        tell(|| catalog.ask((), |reply| catalog::Msg::AdvanceIds(newest, reply))).await?;
    }
    let mut after = FIRST;
    loop {
        let page = order.movements(after, PAGE).await?;
        let Some(last) = page.last().map(|movement| movement.id) else { return Ok(()) };
        tell(|| catalog.ask((), |reply| catalog::Msg::ApplyMovements(page.clone(), reply))).await?;
        progress.movements += page.len() as i64;
        turn.work(*progress).await?;
        after = last;
    }
}

/// Tells the owner of orders of all sales that the catalog remembers.
async fn take_over_sales(
    catalog: &Peer,
    orders: &Addr<orders::Msg>,
    turn: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST;
    loop {
        let page = catalog.movements(after, PAGE).await?;
        let Some(last) = page.last().map(|movement| movement.id) else { return Ok(()) };
        let take_over = |reply| orders::Msg::TakeOver(page.clone(), reply);
        progress.movements += tell(|| orders.ask((), take_over)).await?;
        turn.work(*progress).await?;
        after = last;
    }
}

/// Tells the owner of orders of all products.
async fn copy_products(
    catalog: &Peer,
    orders: &Addr<orders::Msg>,
    turn: &mut ResyncLease,
    progress: &mut Progress,
) -> Result<()> {
    let mut after = FIRST_PRODUCT;
    loop {
        let page = catalog.products(after, PAGE, FIRST).await?;
        let Some(last) = page.last().map(|product| product.id) else { return Ok(()) };
        let news: Vec<_> = page.into_iter().map(news_of_product).collect();
        let offer = |news: &[stock::ProductUpdate]| {
            let news = news.to_vec();
            orders.ask((), |reply| orders::Msg::ApplyProducts(news, reply))
        };
        match tell(|| offer(&news)).await {
            // One of them is the culprit. Each by itself, so that it holds up no other.
            Err(Error::Conflict(_)) => {
                for one in news.chunks(1) {
                    match tell(|| offer(one)).await {
                        Err(Error::Conflict(why)) => {
                            let id = one[0].offer.id;
                            tracing::warn!(product.id = id, why, "a product is left out");
                        }
                        outcome => outcome?,
                    }
                }
            }
            outcome => outcome?,
        }
        progress.products += news.len() as i64;
        turn.work(*progress).await?;
        after = last;
    }
}

fn news_of_product(stock: Stock) -> stock::ProductUpdate {
    let Stock { id, name, price, category_id, version, stocked: quantity, .. } = stock;
    stock::ProductUpdate { version, offer: Offer { id, name, price, quantity, category_id } }
}

/// Asks an owner; while it has too much to do, waits and asks again.
async fn tell<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
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

    fn person(id: u128, version: i64) -> UserRecord {
        let id = Uuid::from_u128(id);
        let (username, email) = ("anna".to_owned(), "anna@example.com".to_owned());
        let user = Some(User { id, username, email, role: Role::User });
        UserRecord { id, version, user, deleted: false }
    }

    fn gone(id: u128, version: i64) -> UserRecord {
        UserRecord { deleted: true, ..person(id, version) }
    }

    #[test]
    fn who_is_known_here_and_not_there_is_gone() {
        let known = vec![person(1, 4), gone(2, 3), person(3, 5), person(9, 1)];
        let news =
            news_of(known, vec![person(3, 6), person(5, 1), person(7, 1)], Uuid::from_u128(5));
        let heard: Vec<_> = news
            .iter()
            .map(|news| (news.id.as_u128(), news.version, news.user.is_some()))
            .collect();
        assert_eq!(heard, [(1, 5, false), (3, 6, true), (5, 1, true)], "and nobody past the end");
    }
}
