//! The link to the broker: one session kept open, so that the node knows whether its broker is there. While it is away
//! the link alone knocks; relay, keepers and intakes open their sessions when it is back.

use std::sync::Arc;

use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Backoff, HandlerResult, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Broker, Result};

/// Keeps a session with the broker open. Clones tell whether it is.
#[derive(Debug, Clone)]
pub struct Connection {
    broker: Broker,
    up: Arc<watch::Sender<bool>>,
}

impl Connection {
    /// A link to this broker, not yet open.
    pub fn new(broker: &Broker) -> Connection {
        Connection { broker: broker.clone(), up: Arc::new(watch::Sender::new(false)) }
    }

    /// The broker at its other end.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Tells whether there is a connection, now and later.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Waits until there is a connection. Cancel safe.
    pub async fn up(&self) {
        self.up.subscribe().wait_for(|up| *up).await.ok(); // it is never dropped before `self`
    }

    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        let mut publisher = actor_metrics.measure("Open", self.broker.publisher()).await?;
        let _up = Up::new(&self.up);
        loop {
            publisher.settled().await?; // nothing is in flight: it waits until the session breaks
        }
    }
}

impl Service for Connection {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let wait = backoff.next_delay();
            tracing::warn!(%error, retry_ms = wait.as_millis(), "there is no link to the broker");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

/// True as long as it lives.
struct Up<'l>(&'l watch::Sender<bool>);

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
