//! The node's books, for administrators and the other nodes, and the ledger that compares those of all three.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use shop_persistence::catalog::ProductId;
use shop_persistence::ledger::Ledger;
use shop_persistence::snapshot::{
    FIRST, FIRST_PRODUCT, LocalSnapshot, MAX_PAGE_ROWS, Snapshot as _, Stock, Summary, UserRecord,
};
use shop_persistence::stock::Movement;
use shop_persistence::{Database, Error, Schema};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Access, Routes};
use crate::body::Query;
use crate::peers::Peers;
use crate::problem::{Problem, Result};

/// At most so many read the books at once: they are long, and the connections are few.
const READERS: usize = 2;

/// How long a reader waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

/// How long the ledger looks again by itself while the books differ.
const PATIENCE_MS: u64 = 3_000;

/// What the routes read.
#[derive(Debug, Clone)]
pub struct SnapshotApi {
    own: LocalSnapshot,
    schema: Schema,
    peers: Peers,
    readers: Arc<Semaphore>,
    comparers: Arc<Semaphore>,
}

impl SnapshotApi {
    /// The books of this database, which holds these tables, and those of the other nodes.
    pub fn new(database: &Database, schema: Schema, peers: Peers) -> SnapshotApi {
        SnapshotApi {
            own: LocalSnapshot::new(database, schema),
            schema,
            peers,
            readers: Arc::new(Semaphore::new(READERS)),
            comparers: Arc::new(Semaphore::new(1)),
        }
    }
}

/// A turn to read; whoever comes waits for it a while.
async fn turn(snapshot: &SnapshotApi) -> Result<SemaphorePermit<'_>> {
    match tokio::time::timeout(TURN_PATIENCE, snapshot.readers.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Error::Overloaded("books".into()).into()),
    }
}

/// The books' routes, the same on every node.
pub fn routes(snapshot: SnapshotApi) -> Routes {
    let admin = OpenApiRouter::new().routes(routes!(ledger));
    let node = OpenApiRouter::new()
        .routes(routes!(users))
        .routes(routes!(products))
        .routes(routes!(movements))
        .routes(routes!(summary));
    vec![
        (Access::Admin, admin.with_state(snapshot.clone())),
        (Access::NodeOrAdmin, node.with_state(snapshot)),
    ]
}

/// How long to look.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Patience {
    /// While the books differ, it looks again for so long, at most a minute: what is under way between the nodes
    /// differs for a moment. Without it: three seconds.
    patience_ms: Option<u64>,
}

/// Compares the books of the three nodes.
///
/// Of each product, what was stocked, sold and is left; of each user, the copies; of each order, its totals; and what
/// waits in the outboxes.
#[utoipa::path(
    get, path = "/admin/ledger", tag = "operations", params(Patience),
    responses((status = 200, body = Ledger), (status = "default", response = Problem))
)]
async fn ledger(
    State(snapshot): State<SnapshotApi>,
    Query(Patience { patience_ms }): Query<Patience>,
) -> Result<Answer<Ledger>> {
    let turn = snapshot.comparers.try_acquire();
    let _turn = turn.map_err(|_| Error::Overloaded("ledger".into()))?;
    let patience = Duration::from_millis(patience_ms.unwrap_or(PATIENCE_MS).min(60_000));
    let SnapshotApi { own, peers, .. } = &snapshot;
    let ledger = match snapshot.schema {
        Schema::Auth => Ledger::take(own, &peers.catalog, &peers.order, patience).await,
        Schema::Catalog => Ledger::take(&peers.auth, own, &peers.order, patience).await,
        Schema::Order => Ledger::take(&peers.auth, &peers.catalog, own, patience).await,
    };
    Ok(Answer(ledger?))
}

/// Which users or movements.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Those whose ids follow this one; without it, from the first.
    after: Option<Uuid>,
    /// At most so many, and never more than 1000.
    limit: Option<i64>,
}

/// Which products.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ProductPage {
    /// Those whose ids follow this one; without it, from the first.
    after: Option<ProductId>,
    /// At most so many, and never more than 1000.
    limit: Option<i64>,
    /// What was sold counts as far as its movement's id lies before this one; without it, all of it.
    before: Option<Uuid>,
}

fn some(limit: Option<i64>) -> i64 {
    limit.unwrap_or(MAX_PAGE_ROWS).clamp(1, MAX_PAGE_ROWS)
}

/// Users as this node knows them, in ascending order of their ids.
#[utoipa::path(
    get, path = "/admin/books/people", tag = "operations", params(Page),
    responses((status = 200, body = Vec<UserRecord>), (status = "default", response = Problem))
)]
async fn users(
    State(snapshot): State<SnapshotApi>,
    Query(Page { after, limit }): Query<Page>,
) -> Result<Answer<Vec<UserRecord>>> {
    let _turn = turn(&snapshot).await?;
    Ok(Answer(snapshot.own.users(after.unwrap_or(FIRST), some(limit)).await?))
}

/// Products and their stock as this node knows them, in ascending order of their ids.
#[utoipa::path(
    get, path = "/admin/books/products", tag = "operations", params(ProductPage),
    responses((status = 200, body = Vec<Stock>), (status = "default", response = Problem))
)]
async fn products(
    State(snapshot): State<SnapshotApi>,
    Query(ProductPage { after, limit, before }): Query<ProductPage>,
) -> Result<Answer<Vec<Stock>>> {
    let _turn = turn(&snapshot).await?;
    let (after, before) = (after.unwrap_or(FIRST_PRODUCT), before.unwrap_or(Uuid::max()));
    Ok(Answer(snapshot.own.products(after, some(limit), before).await?))
}

/// The movements of sales that this node knows, in ascending order of their ids.
#[utoipa::path(
    get, path = "/admin/books/movements", tag = "operations", params(Page),
    responses((status = 200, body = Vec<Movement>), (status = "default", response = Problem))
)]
async fn movements(
    State(snapshot): State<SnapshotApi>,
    Query(Page { after, limit }): Query<Page>,
) -> Result<Answer<Vec<Movement>>> {
    let _turn = turn(&snapshot).await?;
    Ok(Answer(snapshot.own.movements(after.unwrap_or(FIRST), some(limit)).await?))
}

/// What waits in this node's outbox, and orders whose totals are not the sums of their items.
#[utoipa::path(
    get, path = "/admin/books/summary", tag = "operations",
    responses((status = 200, body = Summary), (status = "default", response = Problem))
)]
async fn summary(State(snapshot): State<SnapshotApi>) -> Result<Answer<Summary>> {
    let _turn = turn(&snapshot).await?;
    Ok(Answer(snapshot.own.summary().await?))
}
