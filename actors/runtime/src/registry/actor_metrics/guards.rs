//! Guards that measure a message from the queue to the end of its handler. Dropping one counts the
//! message, so that the depth is right whatever happens to it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::histogram::micros;
use super::{ActorMetrics, lock};
use crate::registry::status::ActorKind;
use crate::trace::SpanContext;

/// What happened to a message in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Lost,
    Rejected,
    Expired,
    Opened,
}

/// A message's place in a queue. Dropping it without [`open`](Self::open) counts the message as
/// rejected, expired or lost.
#[derive(Debug)]
pub struct QueueGuard {
    actor_metrics: Arc<ActorMetrics>,
    since: Instant,
    deadline: Option<Instant>,
    outcome: Outcome,
}

impl QueueGuard {
    pub(super) fn new(
        actor_metrics: Arc<ActorMetrics>,
        since: Instant,
        deadline: Option<Instant>,
    ) -> QueueGuard {
        QueueGuard { actor_metrics, since, deadline, outcome: Outcome::Lost }
    }

    /// The message was refused.
    pub fn reject(mut self) {
        self.outcome = Outcome::Rejected;
    }

    /// The message's caller has timed out.
    pub fn expire(mut self) {
        self.outcome = Outcome::Expired;
    }

    /// The handler of the message starts at `now`.
    pub fn open(
        mut self,
        name: &'static str,
        span: Option<SpanContext>,
        now: Instant,
    ) -> ProcessingGuard {
        self.outcome = Outcome::Opened;
        let actor_metrics = &self.actor_metrics;
        let name = actor_metrics.message_counts.index(name);
        if actor_metrics.counts {
            let waited = now.saturating_duration_since(self.since);
            actor_metrics.queue_wait.record(waited);
            actor_metrics.queue_wait_micros.fetch_add(micros(waited), Relaxed);
            actor_metrics.message_counts.increment(name);
        }
        let slot = actor_metrics.take_slot(name, span, now);
        ProcessingGuard { queue: self, since: now, slot, span, name, done: false }
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.actor_metrics.depth.fetch_sub(1, Relaxed);
        let is_overdue = || self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let counter = match self.outcome {
            Outcome::Opened => return,
            Outcome::Rejected => &self.actor_metrics.rejected,
            Outcome::Expired => &self.actor_metrics.expired,
            Outcome::Lost if is_overdue() => &self.actor_metrics.expired,
            Outcome::Lost if self.deadline.is_none() => return, // no caller waits for it
            Outcome::Lost => &self.actor_metrics.lost,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// Measures the handler of a message while it lives. Dropping it before [`done`](Self::done) counts the
/// message as lost: its actor failed or was killed.
#[derive(Debug)]
pub struct ProcessingGuard {
    queue: QueueGuard,
    since: Instant,
    slot: Option<usize>,
    span: Option<SpanContext>,
    name: usize,
    done: bool,
}

impl ProcessingGuard {
    /// The message is handled.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for ProcessingGuard {
    fn drop(&mut self) {
        let actor_metrics = &self.queue.actor_metrics;
        if actor_metrics.counts {
            let duration = self.since.elapsed();
            actor_metrics.handler.record(duration);
            // Messages of a batch share their time: only the one with a slot counts it.
            if self.slot.is_some() {
                actor_metrics.busy_micros.fetch_add(micros(duration), Relaxed);
            }
        }
        if let Some(slot) = self.slot {
            actor_metrics.slots[slot].release();
        }
        if self.done {
            actor_metrics.handled.fetch_add(1, Relaxed);
        } else if !matches!(actor_metrics.kind, ActorKind::Service | ActorKind::HttpServer) {
            // A service's work is repeated, and an HTTP client that disconnects waits for nothing.
            actor_metrics.lost.fetch_add(1, Relaxed);
            let name = actor_metrics.message_counts.name(self.name).to_owned();
            lock(&actor_metrics.lifecycle).interrupted = Some((name, self.span));
        }
    }
}
