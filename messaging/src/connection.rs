//! The broker connection: one open session that shows whether the broker is available. While it is
//! not, only this service tries to connect; the relay and the consumers wait for it.

use std::sync::Arc;

use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Backoff, HandlerResult, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Broker, Result};

/// The state of a broker's connection; as a service, what keeps it open. Clones share the state.
#[derive(Debug, Clone)]
pub struct Connection {
    broker: Broker,
    up: Arc<watch::Sender<bool>>,
}

impl Connection {
    /// A connection to this broker, not yet open.
    pub fn new(broker: &Broker) -> Connection {
        Connection { broker: broker.clone(), up: Arc::new(watch::Sender::new(false)) }
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Observes whether the connection is open.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Waits until the connection is open. Cancel safe.
    pub async fn up(&self) {
        self.up.subscribe().wait_for(|up| *up).await.ok(); // `self` holds the sender
    }

    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        let mut publisher = actor_metrics.measure("Open", self.broker.publisher()).await?;
        let _up = Up::new(&self.up);
        loop {
            publisher.confirmed().await?; // nothing is in flight: returns when the session ends
        }
    }
}

impl Service for Connection {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let delay = backoff.next_delay();
            tracing::warn!(%error, retry_ms = delay.as_millis(), "the broker is unavailable");
            stop.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
        Ok(())
    }
}

/// Sets the state to open until it is dropped.
struct Up<'a>(&'a watch::Sender<bool>);

impl Up<'_> {
    fn new(up: &watch::Sender<bool>) -> Up<'_> {
        up.send_replace(true);
        Up(up)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
