//! The relay: publishes the outbox. An event is deleted after the broker's confirmation, so that it
//! may be published twice and is never lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shop_actors::Metrics;
use shop_persistence::Database;
use shop_persistence::events::EventSpec;
use shop_persistence::outbox::{Reader, Waiting};
use shop_runtime::registry::{ActorMetrics, ProcessingGuard};
use shop_runtime::{Backoff, Failpoint, HandlerResult, Service, Span, SpanContext};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Connection, Message, Publisher, spans, topology};

/// The maximum number of events that are published and not yet confirmed.
pub const WINDOW: usize = 2048;

/// The minimum time between two queries after a commit. A query costs PostgreSQL as much as many
/// events.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// While the outbox has more events than the window, the next query waits for this many
/// confirmations: the broker is busy with the others meanwhile.
const REFILL: usize = WINDOW / 2;

/// The maximum time that a confirmed event stays in the outbox while the relay has no other reason
/// for a query. It has one most of the time.
const MAX_DELETE_DELAY: Duration = Duration::from_millis(20);

/// The time between two queries without a notification of a commit.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the committed events of a database. Cancelling it anywhere is harmless: events without
/// a confirmation stay in the outbox.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The database with the outbox.
    pub database: Database,
    /// The connection to the broker.
    pub connection: Connection,
    /// Counts published events.
    pub metrics: Metrics,
}

impl Service for Relay {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session(&actor_metrics));
        while let Some(Err(error)) = session().failpoint("relay: session").await {
            let delay = backoff.next_delay();
            tracing::warn!(error, retry_ms = delay.as_millis(), "the relay lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(delay)).failpoint("relay: backoff").await;
        }
        Ok(())
    }
}

/// The connections of a session, and its events between publication and deletion.
struct RelaySession<'r> {
    relay: &'r Relay,
    actor_metrics: &'r Arc<ActorMetrics>,
    publisher: Publisher,
    reader: Reader,
    in_flight: BTreeMap<i64, (&'static str, Span, ProcessingGuard)>,
    /// The ids to delete from the outbox with the next query.
    confirmed: Vec<i64>,
}

impl Relay {
    /// Relays over one connection to each side, until one of them breaks.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> HandlerResult {
        self.connection.up().failpoint("relay: connection").await;
        let publisher =
            self.connection.broker().publisher().failpoint("relay: open publisher").await?;
        let reader = Reader::open(&self.database).await?;
        let mut session = RelaySession {
            relay: self,
            actor_metrics,
            publisher,
            reader,
            in_flight: BTreeMap::new(),
            confirmed: vec![],
        };
        loop {
            let leads = session.reader.lead().await?;
            let in_flight = session.in_flight.len();
            actor_metrics.report_state(|| json!({"leads": leads, "in_flight": in_flight}));
            let more = if leads { session.publish().await? } else { false };
            session.wait(leads, more).await?;
        }
    }
}

impl RelaySession<'_> {
    /// Deletes confirmed events and publishes as many as the window holds. Returns whether the
    /// outbox may have more.
    async fn publish(&mut self) -> HandlerResult<bool> {
        let in_flight: Vec<_> = self.in_flight.keys().copied().collect();
        let limit = WINDOW - in_flight.len();
        let next = self.reader.next(&self.confirmed, &in_flight, limit).await?;
        self.confirmed.clear();
        let more = next.len() == limit;
        for waiting in next {
            let (now, event) = (Instant::now(), EventSpec::label(&waiting.event));
            let span = spans::publish(&waiting, self.relay.connection.broker());
            let (id, trace) = (waiting.id, span.context());
            let guard = self.actor_metrics.enqueued(now, None).open(event, Some(trace), now);
            self.in_flight.insert(id, (event, span, guard));
            let publish = self.publisher.publish(id, message(waiting, trace));
            publish.failpoint("relay: publish").await?;
        }
        Ok(more)
    }

    /// Collects confirmations until the next query is due.
    async fn wait(&mut self, leads: bool, more: bool) -> HandlerResult {
        let now = Instant::now();
        let soon = now + if more { POLL_INTERVAL } else { MIN_INTERVAL };
        let mut due = now + POLL_INTERVAL;
        while Instant::now() < due {
            tokio::select! {
                confirmed = self.publisher.confirmed().failpoint("relay: confirmed") => {
                    self.confirm(confirmed?);
                    if more && self.confirmed.len() >= REFILL {
                        break;
                    }
                    due = due.min(soon + MAX_DELETE_DELAY);
                }
                committed = self.reader.committed().failpoint("relay: committed") => {
                    committed?;
                    if !leads {
                        self.reader.hint().await?;
                    }
                    due = due.min(soon);
                }
                () = tokio::time::sleep_until(due).failpoint("relay: poll") => {}
            }
        }
        Ok(())
    }

    fn confirm(&mut self, ids: Vec<i64>) {
        for id in ids {
            let Some((event, span, guard)) = self.in_flight.remove(&id) else { continue };
            span.finish();
            guard.done();
            self.relay.metrics.published.with_label_values(&[event]).inc();
            self.confirmed.push(id);
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
