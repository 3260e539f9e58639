//! The relay: from the outbox to the broker. Confirmed first, deleted then: an event may go out twice, never not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shop_actors::Metrics;
use shop_persistence::outbox::{Reader, Waiting};
use shop_persistence::{Database, Event};
use shop_runtime::registry::{ActorMetrics, ProcessingGuard};
use shop_runtime::{Backoff, Failpoint, HandlerResult, Service, Span, SpanContext};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Connection, Message, spans, topology};

/// At most so many events are published and not yet confirmed.
pub const WINDOW: usize = 2048;

/// How long it takes its time between two looks: what is committed meanwhile is seen to at once, but each look costs all of
/// the processes behind it as much as many events.
const PACE: Duration = Duration::from_millis(10);

/// While more waits than there was room for, it looks when so many are confirmed: the broker has the others to go on with.
const ENOUGH: usize = WINDOW / 2;

/// How long what is confirmed may stay in the outbox, when nothing else is to be seen to there: most often something is.
const LINGER: Duration = Duration::from_millis(20);

/// How often the outbox is looked at when nobody says that something was committed.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes what was committed. To cut it off anywhere is harmless: what was not confirmed stays in the outbox.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Whose outbox.
    pub database: Database,
    /// Where to.
    pub connection: Connection,
    /// Counts what was published.
    pub metrics: Metrics,
}

impl Service for Relay {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session(&actor_metrics));
        while let Some(Err(error)) = session().failpoint("relay: session").await {
            let wait = backoff.next_delay();
            tracing::warn!(error, retry_ms = wait.as_millis(), "the relay lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).failpoint("relay: pause").await;
        }
        Ok(())
    }
}

impl Relay {
    /// Relays over one pair of connections, until one of them breaks.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> HandlerResult {
        self.connection.up().failpoint("relay: link").await;
        let mut publisher =
            self.connection.broker().publisher().failpoint("relay: open publisher").await?;
        let mut reader = Reader::open(&self.database).await?;
        let mut in_flight: BTreeMap<i64, (&'static str, Span, ProcessingGuard)> = BTreeMap::new();
        let mut confirmed = vec![];
        loop {
            let leads = reader.lead().await?;
            let mut more = false;
            actor_metrics.report_state(|| json!({"leads": leads, "in_flight": in_flight.len()}));
            if leads {
                let known: Vec<_> = in_flight.keys().copied().collect();
                let room = WINDOW - known.len();
                let next = reader.next(&confirmed, &known, room).await?;
                confirmed.clear();
                more = next.len() == room;
                for waiting in next {
                    let (now, event) = (Instant::now(), Event::known(&waiting.event));
                    let span = spans::publish(&waiting, self.connection.broker());
                    let (id, trace) = (waiting.id, span.context());
                    let handling = actor_metrics.enqueued(now, None).open(event, Some(trace), now);
                    in_flight.insert(id, (event, span, handling));
                    publisher
                        .publish(id, message(waiting, trace))
                        .failpoint("relay: publish")
                        .await?;
                }
            }
            let soon = Instant::now() + if more { LOOK } else { PACE };
            let mut due = Instant::now() + LOOK;
            while Instant::now() < due {
                tokio::select! {
                    settled = publisher.settled().failpoint("relay: settled") => {
                        for id in settled? {
                            let Some((event, span, handling)) = in_flight.remove(&id) else { continue };
                            span.finish();
                            handling.done();
                            self.metrics.published.with_label_values(&[event]).inc();
                            confirmed.push(id);
                        }
                        if more && confirmed.len() >= ENOUGH {
                            break;
                        }
                        due = due.min(soon + LINGER);
                    }
                    committed = reader.committed().failpoint("relay: committed") => {
                        committed?;
                        if !leads {
                            reader.hint().await?;
                        }
                        due = due.min(soon);
                    }
                    () = tokio::time::sleep_until(due).failpoint("relay: look") => {}
                }
            }
        }
    }
}

fn message(waiting: Waiting, trace: SpanContext) -> Message {
    let (exchange, routing_key) = topology::route(&waiting.event);
    Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        id: Some(waiting.message_id.to_string()),
        kind: Some(waiting.event),
        version: Some(waiting.version),
        traceparent: Some(trace.to_string()),
        timestamp: u64::try_from(waiting.seconds).ok(),
        reason: None,
        body: waiting.body.into_bytes(),
    }
}
