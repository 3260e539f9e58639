//! Lists that are kept ready: hears what other replicas change in them.

use std::sync::Arc;

use shop_persistence::pages::NotificationListener;
use shop_persistence::{Database, Result};
use tokio_util::sync::CancellationToken;

use shop_runtime::{Backoff, HandlerResult, Service, registry::ActorMetrics};

/// Has lists read anew that another replica of the node has changed.
#[derive(Debug, Clone)]
pub struct ChangeListener {
    /// Whose lists.
    pub database: Database,
}

impl Service for ChangeListener {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let wait = backoff.pause();
            tracing::warn!(error = %error, retry_ms = wait.as_millis(), "the lookout hears nothing");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

impl ChangeListener {
    /// Listens until the connection breaks for good.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        let mut listener = NotificationListener::open(&self.database).await?;
        loop {
            listener.recv().await?;
            actor_metrics.measure("Change", std::future::ready(())).await;
        }
    }
}
