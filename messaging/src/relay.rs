//! The relay: from the outbox to the broker. Confirmed first, deleted then: an event may go out twice, never not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use shop_actors::{Backoff, Handled, Metrics, Service};
use shop_persistence::outbox::{Reader, Waiting};
use shop_persistence::{At, Database};
use tokio_util::sync::CancellationToken;

use crate::topology;
use crate::{Broker, Message};

/// At most so many events are published and not yet confirmed.
const WINDOW: usize = 256;

/// How often the outbox is looked at when nobody says that something was committed.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes what was committed. To cut it off anywhere is harmless: what was not confirmed stays in the outbox.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Whose outbox.
    pub database: Database,
    /// Where to.
    pub broker: Broker,
    /// Counts what was published.
    pub metrics: Metrics,
    /// Says whether there is a connection to the broker.
    pub up: Arc<AtomicBool>,
}

impl Service for Relay {
    async fn run(self, stop: CancellationToken) -> Handled {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session());
        while let Some(Err(error)) = session().at("relay: session").await {
            let wait = backoff.pause();
            tracing::warn!(error, retry_ms = wait.as_millis(), "the relay lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).at("relay: pause").await;
        }
        Ok(())
    }
}

impl Relay {
    /// Relays over one pair of connections, until one of them breaks.
    async fn session(&self) -> Handled {
        let mut publisher = self.broker.publisher().at("relay: open publisher").await?;
        let _up = Up::new(&self.up);
        let mut reader = Reader::open(&self.database).await?;
        let mut in_flight: BTreeMap<i64, String> = BTreeMap::new();
        loop {
            let leads = reader.lead().await?;
            if leads && in_flight.len() < WINDOW {
                let known: Vec<_> = in_flight.keys().copied().collect();
                for waiting in reader.next(&known, WINDOW - known.len()).await? {
                    in_flight.insert(waiting.id, waiting.event.clone());
                    publisher.publish(waiting.id, message(waiting)).at("relay: publish").await?;
                }
            }
            tokio::select! {
                confirmed = publisher.settled().at("relay: settled") => {
                    let confirmed = confirmed?;
                    reader.delete(&confirmed).await?;
                    for event in confirmed.iter().filter_map(|id| in_flight.remove(id)) {
                        self.metrics.published.with_label_values(&[&event]).inc();
                    }
                }
                committed = reader.committed().at("relay: committed") => {
                    committed?;
                    if !leads {
                        reader.hint().await?;
                    }
                }
                () = tokio::time::sleep(LOOK).at("relay: look") => {}
            }
        }
    }
}

fn message(waiting: Waiting) -> Message {
    let (exchange, routing_key) = topology::route(&waiting.event);
    Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        id: Some(waiting.message_id.to_string()),
        kind: Some(waiting.event),
        version: Some(waiting.version),
        traceparent: waiting.traceparent,
        timestamp: u64::try_from(waiting.seconds).ok(),
        reason: None,
        body: waiting.body.into_bytes(),
    }
}

/// True as long as it lives.
struct Up<'a>(&'a AtomicBool);

impl Up<'_> {
    fn new(up: &AtomicBool) -> Up<'_> {
        up.store(true, Relaxed);
        Up(up)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}
