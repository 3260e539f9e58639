//! A node's snapshot, for administrators and the other nodes, and the ledger that compares the
//! snapshots of all three nodes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use shop_actors::Error;
use shop_persistence::catalog::ProductId;
use shop_persistence::ledger::Ledger;
use shop_persistence::snapshot::{
    FIRST, FIRST_PRODUCT, LocalSnapshot, MAX_PAGE_ROWS, Snapshot as _, Stock, Summary, UserRecord,
};
use shop_persistence::stock::Movement;
use shop_persistence::{Database, Schema};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Access, Routes};
use crate::body::{Json, Query};
use crate::peers::Peers;
use crate::problem::{Problem, Result};

/// The maximum number of concurrent reads: a page takes long, and the connections are few.
const MAX_READERS: usize = 2;

/// How long a read waits for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the ledger retries by default while the snapshots differ.
const LEDGER_TIMEOUT_MS: u64 = 3_000;

/// The maximum of that, in milliseconds.
const MAX_LEDGER_TIMEOUT_MS: u64 = 60_000;

/// What the routes use.
#[derive(Debug, Clone)]
pub struct SnapshotApi {
    local: LocalSnapshot,
    schema: Schema,
    peers: Peers,
    readers: Arc<Semaphore>,
    ledgers: Arc<Semaphore>,
}

impl SnapshotApi {
    /// The snapshot of this database with this schema, and those of the other nodes.
    pub fn new(database: &Database, schema: Schema, peers: Peers) -> SnapshotApi {
        SnapshotApi {
            local: LocalSnapshot::new(database, schema),
            schema,
            peers,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            ledgers: Arc::new(Semaphore::new(1)),
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        match tokio::time::timeout(PERMIT_TIMEOUT, self.readers.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Overloaded("snapshot".into()).into()),
        }
    }
}

/// The routes of the snapshot and the ledger, the same on every node.
pub fn routes(snapshot: SnapshotApi) -> Routes {
    let admin = OpenApiRouter::new().routes(routes!(take_ledger));
    let node = OpenApiRouter::new()
        .routes(routes!(snapshot_users))
        .routes(routes!(snapshot_products))
        .routes(routes!(snapshot_movements))
        .routes(routes!(snapshot_summary));
    vec![
        (Access::Admin, admin.with_state(snapshot.clone())),
        (Access::NodeOrAdmin, node.with_state(snapshot)),
    ]
}

/// How long to retry.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LedgerQuery {
    /// How long to retry while the snapshots differ, in milliseconds; 3000 by default, 60000 at
    /// most. Events in flight between the nodes differ for a moment.
    timeout_ms: Option<u64>,
}

/// Compares the snapshots of the three nodes.
///
/// It compares the stock of each product with its movements, the replicated users with their
/// source, the totals of each order with its items, and reports events that wait in an outbox.
#[utoipa::path(
    get, path = "/admin/ledger", tag = "operations", params(LedgerQuery),
    responses((status = 200, body = Ledger), (status = "default", response = Problem))
)]
async fn take_ledger(
    State(snapshot): State<SnapshotApi>,
    Query(LedgerQuery { timeout_ms }): Query<LedgerQuery>,
) -> Result<Json<Ledger>> {
    let permit = snapshot.ledgers.try_acquire();
    let _permit = permit.map_err(|_| Error::Overloaded("ledger".into()))?;
    let timeout = timeout_ms.unwrap_or(LEDGER_TIMEOUT_MS).min(MAX_LEDGER_TIMEOUT_MS);
    let timeout = Duration::from_millis(timeout);
    let SnapshotApi { local, peers, .. } = &snapshot;
    let ledger = match snapshot.schema {
        Schema::Auth => Ledger::take(local, &peers.catalog, &peers.order, timeout).await,
        Schema::Catalog => Ledger::take(&peers.auth, local, &peers.order, timeout).await,
        Schema::Order => Ledger::take(&peers.auth, &peers.catalog, local, timeout).await,
    };
    Ok(Json(ledger?))
}

/// A page of users or movements.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// The page begins after this id; without it, at the first.
    after: Option<Uuid>,
    /// The maximum number of entries, up to 1000.
    limit: Option<i64>,
}

/// A page of products.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ProductPage {
    /// The page begins after this id; without it, at the first.
    after: Option<ProductId>,
    /// The maximum number of entries, up to 1000.
    limit: Option<i64>,
    /// Counts only the movements with ids before this one; without it, all.
    before: Option<Uuid>,
}

fn page_size(limit: Option<i64>) -> i64 {
    limit.unwrap_or(MAX_PAGE_ROWS).clamp(1, MAX_PAGE_ROWS)
}

/// The users in this node's database, by ascending id.
#[utoipa::path(
    get, path = "/admin/snapshot/users", tag = "operations", params(Page),
    responses((status = 200, body = Vec<UserRecord>), (status = "default", response = Problem))
)]
async fn snapshot_users(
    State(snapshot): State<SnapshotApi>,
    Query(Page { after, limit }): Query<Page>,
) -> Result<Json<Vec<UserRecord>>> {
    let _permit = snapshot.permit().await?;
    Ok(Json(snapshot.local.users(after.unwrap_or(FIRST), page_size(limit)).await?))
}

/// The products and their stock in this node's database, by ascending id.
#[utoipa::path(
    get, path = "/admin/snapshot/products", tag = "operations", params(ProductPage),
    responses((status = 200, body = Vec<Stock>), (status = "default", response = Problem))
)]
async fn snapshot_products(
    State(snapshot): State<SnapshotApi>,
    Query(ProductPage { after, limit, before }): Query<ProductPage>,
) -> Result<Json<Vec<Stock>>> {
    let _permit = snapshot.permit().await?;
    let (after, before) = (after.unwrap_or(FIRST_PRODUCT), before.unwrap_or(Uuid::max()));
    Ok(Json(snapshot.local.products(after, page_size(limit), before).await?))
}

/// The stock movements of orders in this node's database, by ascending id.
#[utoipa::path(
    get, path = "/admin/snapshot/movements", tag = "operations", params(Page),
    responses((status = 200, body = Vec<Movement>), (status = "default", response = Problem))
)]
async fn snapshot_movements(
    State(snapshot): State<SnapshotApi>,
    Query(Page { after, limit }): Query<Page>,
) -> Result<Json<Vec<Movement>>> {
    let _permit = snapshot.permit().await?;
    Ok(Json(snapshot.local.movements(after.unwrap_or(FIRST), page_size(limit)).await?))
}

/// The events in this node's outbox, and orders whose totals differ from their items.
#[utoipa::path(
    get, path = "/admin/snapshot/summary", tag = "operations",
    responses((status = 200, body = Summary), (status = "default", response = Problem))
)]
async fn snapshot_summary(State(snapshot): State<SnapshotApi>) -> Result<Json<Summary>> {
    let _permit = snapshot.permit().await?;
    Ok(Json(snapshot.local.summary().await?))
}
