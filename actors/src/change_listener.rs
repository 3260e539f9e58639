//! The change listener: receives the commits of other replicas that change the catalog's lists.

use std::sync::Arc;

use shop_persistence::{ChangeSubscription, Database};
use tokio_util::sync::CancellationToken;

use shop_runtime::{Backoff, HandlerResult, Service, registry::ActorMetrics};

use crate::Result;

/// Advances the change counter when another replica commits a change, which invalidates cached lists.
#[derive(Debug, Clone)]
pub struct ChangeListener {
    /// The node's database.
    pub database: Database,
}

impl Service for ChangeListener {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let wait = backoff.next_delay();
            let retry_ms = wait.as_millis();
            tracing::warn!(%error, retry_ms, "change listener lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

impl ChangeListener {
    /// Listens until the connection fails.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        let mut listener = ChangeSubscription::open(&self.database).await?;
        loop {
            listener.recv().await?;
            actor_metrics.measure("Change", std::future::ready(())).await;
        }
    }
}
