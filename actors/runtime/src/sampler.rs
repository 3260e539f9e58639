//! The metrics sampler.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::actor::HandlerResult;
use crate::registry::{ActorMetrics, ActorRegistry};
use crate::service::Service;

/// A service that samples the metrics of every actor once a second. Rates and recent quantiles need it.
#[derive(Debug, Clone)]
pub struct Sampler(pub ActorRegistry);

impl Service for Sampler {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(second.tick()).await.is_some() {
            actor_metrics.measure("Sample", async { self.0.sample(Instant::now()) }).await;
        }
        Ok(())
    }
}
