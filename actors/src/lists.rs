//! Lists that are kept ready: hears what other replicas change in them.

use std::sync::Arc;

use shop_persistence::lists::Listener;
use shop_persistence::{Database, Result};
use tokio_util::sync::CancellationToken;

use crate::inspector::Probe;
use crate::{Backoff, Handled, Service};

/// Has lists read anew that another replica of the node has changed.
#[derive(Debug, Clone)]
pub struct Lookout {
    /// Whose lists.
    pub database: Database,
}

impl Service for Lookout {
    async fn run(self, probe: Arc<Probe>, stop: CancellationToken) -> Handled {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&probe)).await {
            let wait = backoff.pause();
            tracing::warn!(error = %error, retry_ms = wait.as_millis(), "the lookout hears nothing");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

impl Lookout {
    /// Listens until the connection breaks for good.
    async fn session(&self, probe: &Arc<Probe>) -> Result<()> {
        let mut listener = Listener::open(&self.database).await?;
        loop {
            listener.hear().await?;
            probe.measure("Change", std::future::ready(())).await;
        }
    }
}
