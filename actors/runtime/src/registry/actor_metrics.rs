//! The metrics of one actor. Senders and the loop that runs the actor record them, not the actor's own
//! code. A message costs a few relaxed atomic operations; quantiles and rates are computed when they
//! are read.

mod guards;
mod histogram;
mod lifecycle;
mod recent;
mod slots;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

pub use guards::{ProcessingGuard, QueueGuard};
pub(super) use histogram::Counts;
pub(super) use recent::MAX_SAMPLES;

use super::status::{ActorKind, Current, Phase, Status};
use crate::clock::now;
use crate::trace::SpanContext;
use histogram::{Histogram, micros};
use lifecycle::Lifecycle;
use recent::Recent;
use slots::{MAX_NAMES, MessageCounts, Slot};

/// A handler that runs for longer makes its actor stuck.
const STUCK_THRESHOLD: Duration = Duration::from_secs(2);

/// A shard whose handler runs for longer gets no message that another shard can handle.
const SLOW_THRESHOLD: Duration = Duration::from_millis(500);

/// How long to wait for an actor to report its state.
const STATE_TIMEOUT: Duration = Duration::from_millis(100);

/// The metrics of the actor at a path. They outlive the actor.
pub struct ActorMetrics {
    path: String,
    kind: ActorKind,
    capacity: Option<usize>,
    /// Whether messages are counted and timed. The current message is always known.
    counts: bool,
    created: Instant,
    created_at: Timestamp,
    depth: AtomicUsize,
    pub(super) high_water: AtomicUsize,
    pub(super) handled: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) lost: AtomicU64,
    busy_micros: AtomicU64,
    queue_wait_micros: AtomicU64,
    pub(super) queue_wait: Histogram,
    pub(super) handler: Histogram,
    message_counts: MessageCounts,
    slots: Box<[Slot]>,
    next_slot: AtomicUsize,
    paused: watch::Sender<bool>,
    closed: AtomicBool,
    state_requested: AtomicBool,
    state: watch::Sender<Option<State>>,
    lifecycle: Mutex<Lifecycle>,
    recent: Mutex<Recent>,
}

/// The state that an actor reported.
#[derive(Debug, Clone)]
pub struct State {
    /// The actor's view of its state.
    pub view: Value,
    /// When it was reported.
    pub at: Timestamp,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // no operation stops half-way
}

impl ActorMetrics {
    /// The metrics of the actor at `path`. At most `capacity` messages wait; the actor handles `slots`
    /// messages concurrently.
    pub(super) fn new(
        path: String,
        kind: ActorKind,
        capacity: Option<usize>,
        slots: usize,
        counts: bool,
    ) -> ActorMetrics {
        ActorMetrics {
            path,
            kind,
            capacity,
            counts,
            created: Instant::now(),
            created_at: now(),
            depth: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            busy_micros: AtomicU64::new(0),
            queue_wait_micros: AtomicU64::new(0),
            queue_wait: Histogram::default(),
            handler: Histogram::default(),
            message_counts: MessageCounts::new(),
            slots: (0..slots.max(1)).map(|_| Slot::default()).collect(),
            next_slot: AtomicUsize::new(0),
            paused: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            state_requested: AtomicBool::new(false),
            state: watch::Sender::new(None),
            lifecycle: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    /// Its path in the tree, such as `shop/order/orders/0`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its kind.
    pub fn kind(&self) -> ActorKind {
        self.kind
    }

    /// The maximum number of waiting messages.
    pub fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    /// The number of messages that wait or are being handled.
    pub fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }

    /// Whether the depth, with the message that is being enqueued, exceeds the capacity.
    pub fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.depth() > capacity)
    }

    fn is_at_capacity(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.depth() >= capacity)
    }

    /// Whether it runs and its handler has not been at one message for more than half a second.
    pub fn is_responsive(&self) -> bool {
        let now = self.age();
        let is_slow = |slot: &Slot| slot.running_micros(now) > micros(SLOW_THRESHOLD);
        lock(&self.lifecycle).phase == Phase::Running && !self.slots.iter().any(is_slow)
    }

    /// A message is enqueued at `now`; after `deadline` its caller has timed out.
    pub fn enqueued(self: &Arc<Self>, now: Instant, deadline: Option<Instant>) -> QueueGuard {
        let depth = self.depth.fetch_add(1, Relaxed) + 1;
        let depth = depth.min(self.capacity.unwrap_or(usize::MAX)); // the excess is rejected
        if depth > self.high_water.load(Relaxed) {
            self.high_water.fetch_max(depth, Relaxed);
        }
        QueueGuard::new(self.clone(), now, deadline)
    }

    /// Measures work on a message of this name that did not wait in a queue.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use shop_runtime::ActorRegistry;
    /// use shop_runtime::registry::ActorKind;
    ///
    /// let actor_metrics = ActorRegistry::new("app").actor_metrics(ActorKind::Service, None, 1);
    /// assert_eq!(actor_metrics.measure("Poll", async { 7 }).await, 7);
    /// assert_eq!(actor_metrics.messages(), [("Poll", 1)]);
    /// # }
    /// ```
    pub async fn measure<T>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl Future<Output = T>,
    ) -> T {
        let now = Instant::now();
        let processing = self.enqueued(now, None).open(name, SpanContext::current(), now);
        let done = work.await;
        processing.done();
        done
    }

    /// Whether an administrator is draining it, so that it refuses messages.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Refuses new messages, or accepts them again.
    pub fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Relaxed);
    }

    /// Stops the actor before its next message, or lets it continue.
    pub fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Waits while the actor is paused.
    pub(crate) async fn unless_paused(&self) {
        if *self.paused.borrow() {
            self.paused.subscribe().wait_for(|paused| !paused).await.ok(); // lives as long as `self`
        }
    }

    /// Reports a view of the actor's state, if the inspector has requested it.
    pub fn report_state(&self, view: impl FnOnce() -> Value) {
        if self.state_requested.load(Relaxed) && self.state_requested.swap(false, Relaxed) {
            self.state.send_replace(Some(State { view: view(), at: now() }));
        }
    }

    /// Requests the actor's state and waits up to 100 ms. A busy actor reports it after its handler;
    /// until then this returns the last state that it reported.
    pub async fn state(&self) -> Option<State> {
        let mut reported = self.state.subscribe();
        let was_requested = self.state_requested.swap(true, Relaxed);
        if let Some(request) = self.state_request() {
            if !was_requested {
                request();
            }
            tokio::time::timeout(STATE_TIMEOUT, reported.changed()).await.ok();
        }
        reported.borrow().clone()
    }

    /// The number of handled messages by name, highest first. Beyond 23 names, the rest is `others`.
    pub fn messages(&self) -> Vec<(&'static str, u64)> {
        let counts = (0..MAX_NAMES).map(|index| self.message_counts.get(index));
        let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// Total time in handlers, including the messages that are being handled.
    pub fn busy(&self) -> Duration {
        let now = self.age();
        let running: u64 = self.slots.iter().map(|slot| slot.running_micros(now)).sum();
        Duration::from_micros(self.busy_micros.load(Relaxed) + running)
    }

    /// Total time that messages waited in the queue.
    pub fn queue_wait(&self) -> Duration {
        Duration::from_micros(self.queue_wait_micros.load(Relaxed))
    }

    fn age(&self) -> u64 {
        micros(self.created.elapsed())
    }

    /// The message that has been handled for the longest time.
    pub(super) fn current(&self) -> Option<Current> {
        let running = self.slots.iter().filter_map(Slot::current);
        let (since, name, trace_id) = running.min_by_key(|(since, ..)| *since)?;
        let since_creation = SignedDuration::from_micros(since.cast_signed());
        Some(Current {
            message: self.message_counts.name(name),
            since: self.created_at.saturating_add(since_creation).unwrap_or(self.created_at),
            for_ms: self.age().saturating_sub(since) as f64 / 1e3,
            trace_id: (trace_id != 0).then(|| format!("{trace_id:032x}")),
        })
    }

    /// The status, given the current message and whether messages were rejected in the last second.
    pub(super) fn status(&self, current: Option<&Current>, rejects: bool) -> Status {
        let stuck_ms = STUCK_THRESHOLD.as_secs_f64() * 1e3;
        let stuck = current.is_some_and(|current| current.for_ms > stuck_ms);
        match lock(&self.lifecycle).phase {
            Phase::Starting => Status::Starting,
            Phase::Restarting(_) => Status::Restarting,
            Phase::Stopped => Status::Stopped,
            // A slow client keeps a request open without delaying other requests.
            _ if stuck && self.kind != ActorKind::HttpServer => Status::Stuck,
            Phase::Paused => Status::Paused,
            Phase::Draining => Status::Draining,
            // A service takes only as many messages as it can handle.
            Phase::Running
                if self.kind != ActorKind::Service && (rejects || self.is_at_capacity()) =>
            {
                Status::Overloaded
            }
            Phase::Running if current.is_some() => Status::Busy,
            Phase::Running => Status::Running,
        }
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }

    /// Takes a sample, keeps the last `kept`, and logs when the actor becomes stuck.
    pub(super) fn sample(&self, now: Instant, kept: usize) {
        let current = self.current();
        let mut recent = self.recent();
        recent.sample(self, now, kept);
        let stuck = self.status(current.as_ref(), false) == Status::Stuck;
        if let (true, false, Some(current)) = (stuck, recent.stuck, &current) {
            tracing::warn!(
                actor = self.path,
                message = current.message,
                trace.id = current.trace_id.as_deref(),
                for_ms = current.for_ms,
                "actor is stuck"
            );
        }
        recent.stuck = stuck;
    }
}

impl std::fmt::Debug for ActorMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActorMetrics").field("path", &self.path).finish_non_exhaustive()
    }
}
