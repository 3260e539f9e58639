//! What is measured of one actor: by whoever sends to it and by the loop that runs it, not by its own code. To measure
//! a message is a few atomic additions; whatever takes longer is done when somebody looks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::{Error, Result, SpanContext, now};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::histogram::{Histogram, micros};
use super::recent::Recent;
use super::{Action, Current, Failure, Status};

/// So many failures are remembered.
const FAILURES: usize = 20;

/// So many names of messages are told apart.
const NAMES: usize = 24;

/// An actor that is at one message for longer is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(2);

/// Who is at one message for longer is not given what others can do as well.
const LONG: Duration = Duration::from_millis(500);

/// How long an actor may take to show its state.
const STATE_PATIENCE: Duration = Duration::from_millis(100);

/// What sort of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// Keeps its children running.
    Supervisor,
    /// Owns something, and handles messages about it one at a time.
    Actor,
    /// Keeps something going.
    Service,
    /// Threads that share a queue.
    Pool,
    /// Answers requests, many at a time.
    HttpServer,
}

/// Where an actor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It works.
    Running,
    /// An administrator has it wait.
    Paused,
    /// It works off what waits, takes nothing new, and then stops.
    Draining,
    /// It died, and is started again at this time.
    Restarting(Timestamp),
    /// It has ended.
    Stopped,
}

/// What an administrator may do with an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Everything.
    All,
    /// Have it started afresh.
    Restart,
}

/// Says whether there was anybody to tell.
type Steer = Arc<dyn Fn(Action, String) -> bool + Send + Sync>;

/// The measures of one actor. They are kept by its place in the tree, and outlive the actor that is there.
pub struct ActorMetrics {
    path: String,
    kind: ActorKind,
    capacity: Option<usize>,
    /// Whether what is handled is counted and timed; who is at what for how long is always known.
    counts: bool,
    pub(super) born: Instant,
    born_at: Timestamp,
    pub(super) depth: AtomicUsize,
    pub(super) high_water: AtomicUsize,
    pub(super) handled: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) lost: AtomicU64,
    busy_micros: AtomicU64,
    waited_micros: AtomicU64,
    pub(super) waited: Histogram,
    pub(super) took: Histogram,
    names: Names,
    slots: Box<[Slot]>,
    next_lane: AtomicUsize,
    paused: watch::Sender<bool>,
    closed: AtomicBool,
    state_wanted: AtomicBool,
    state: watch::Sender<Option<State>>,
    life: Mutex<Life>,
    pub(super) recent: Mutex<Recent>,
}

/// A view of an actor's state, by itself, and when that was.
#[derive(Debug, Clone)]
pub struct State {
    /// What it shows.
    pub view: Value,
    /// When.
    pub at: Timestamp,
}

/// What happens to an actor rarely.
struct Life {
    phase: Phase,
    started_at: Option<Timestamp>,
    restarts: u64,
    failures: VecDeque<Failure>,
    /// What was being handled when the handling broke off.
    culprit: Option<(String, Option<SpanContext>)>,
    control: Option<(Control, Steer)>,
    nudge: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Where a message is being handled.
#[derive(Debug, Default)]
struct Slot {
    /// Microseconds since the probe was made, and one: 0 is nobody.
    since: AtomicU64,
    name: AtomicUsize,
    trace_high: AtomicU64,
    trace_low: AtomicU64,
}

/// How many messages there were of each name.
#[derive(Debug)]
struct Names {
    names: [OnceLock<&'static str>; NAMES],
    counts: [AtomicU64; NAMES],
}

impl Names {
    fn new() -> Names {
        Names {
            names: [const { OnceLock::new() }; NAMES],
            counts: [const { AtomicU64::new(0) }; NAMES],
        }
    }

    /// The place of a name. What finds none shares the last.
    fn place(&self, name: &'static str) -> usize {
        let is_its = |known: &OnceLock<_>| *known.get_or_init(|| name) == name;
        self.names[..NAMES - 1].iter().position(is_its).unwrap_or(NAMES - 1)
    }

    fn name(&self, place: usize) -> &'static str {
        self.names.get(place).and_then(|name| name.get()).unwrap_or(&"others")
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // nothing in there breaks half way
}

impl ActorMetrics {
    /// The measures of the actor at this path. At most `capacity` messages wait for it; it is at `slots` of them at once.
    pub(super) fn new(
        path: String,
        kind: ActorKind,
        capacity: Option<usize>,
        slots: usize,
        counts: bool,
    ) -> ActorMetrics {
        let life = Life {
            phase: Phase::Starting,
            started_at: None,
            restarts: 0,
            failures: VecDeque::new(),
            culprit: None,
            control: None,
            nudge: None,
        };
        ActorMetrics {
            path,
            kind,
            capacity,
            counts,
            born: Instant::now(),
            born_at: now(),
            depth: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            busy_micros: AtomicU64::new(0),
            waited_micros: AtomicU64::new(0),
            waited: Histogram::default(),
            took: Histogram::default(),
            names: Names::new(),
            slots: (0..slots.max(1)).map(|_| Slot::default()).collect(),
            next_lane: AtomicUsize::new(0),
            paused: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            state_wanted: AtomicBool::new(false),
            state: watch::Sender::new(None),
            life: Mutex::new(life),
            recent: Mutex::default(),
        }
    }

    /// Its place in the tree, such as `shop/order/orders/0`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What sort of actor.
    pub fn kind(&self) -> ActorKind {
        self.kind
    }

    /// At most so many messages wait.
    pub fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    /// It is at so many messages at once.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Messages that wait or are being handled.
    pub fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }

    /// Whether more messages have come in than may.
    pub fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.depth() > capacity)
    }

    /// Whether a message that comes now is handled soon: the actor runs, and has not been at one message for long.
    pub fn is_at_hand(&self) -> bool {
        let now = self.age();
        let is_long = |slot: &Slot| {
            let since = slot.since.load(Relaxed);
            since > 0 && now.saturating_sub(since - 1) > micros(LONG)
        };
        held(&self.life).phase == Phase::Running && !self.slots.iter().any(is_long)
    }

    fn is_at_capacity(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.depth() >= capacity)
    }

    /// A message comes at `now`; after `deadline` nobody waits for it.
    pub fn arrive(self: &Arc<Self>, now: Instant, deadline: Option<Instant>) -> QueueGuard {
        let depth = self.depth.fetch_add(1, Relaxed) + 1;
        let depth = depth.min(self.capacity.unwrap_or(usize::MAX)); // one more may be refused
        if depth > self.high_water.load(Relaxed) {
            self.high_water.fetch_max(depth, Relaxed);
        }
        QueueGuard { actor_metrics: self.clone(), since: now, deadline, fate: Fate::Lost }
    }

    /// Measures `work` on a message of this name that did not have to wait.
    pub async fn measure<T>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl Future<Output = T>,
    ) -> T {
        let now = Instant::now();
        let handling = self.arrive(now, None).open(name, SpanContext::current(), now);
        let done = work.await;
        handling.done();
        done
    }

    /// Whether nothing new is taken: an administrator has it drained.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Waits while an administrator has the actor paused.
    pub(crate) async fn unless_paused(&self) {
        if *self.paused.borrow() {
            self.paused.subscribe().wait_for(|paused| !paused).await.ok(); // it is never dropped before `self`
        }
    }

    /// Has the actor wait before its next message, or go on.
    pub fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Has new messages refused, or taken again.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Relaxed);
    }

    /// The actor has come to this point of its life.
    pub fn enter(&self, phase: Phase) {
        let mut life = held(&self.life);
        if phase == Phase::Running && life.phase != Phase::Paused {
            life.restarts += u64::from(life.started_at.is_some());
            life.started_at = Some(now());
        }
        // Whoever was paused while it died begins paused.
        let still_paused = phase == Phase::Running && *self.paused.borrow();
        life.phase = if still_paused { Phase::Paused } else { phase };
    }

    /// The actor died.
    pub fn fail(&self, reason: &str) {
        let mut life = held(&self.life);
        let (message, trace) = life.culprit.take().unzip();
        let trace_id = trace.flatten().map(|trace| trace.shown_id().to_string());
        if life.failures.len() == FAILURES {
            life.failures.pop_back();
        }
        let reason = reason.chars().take(500).collect();
        life.failures.push_front(Failure { at: now(), reason, message, trace_id });
    }

    /// Says who carries out what an administrator wants of the actor, and what that may be.
    pub fn steered_by(
        &self,
        steering: Control,
        control: impl Fn(Action, String) -> bool + Send + Sync + 'static,
    ) {
        held(&self.life).control = Some((steering, Arc::new(control)));
    }

    /// What an administrator may do with the actor now.
    pub fn actions(&self) -> Vec<Action> {
        use Action::{Drain, Pause, Restart, Resume};
        let life = held(&self.life);
        let Some((steering, _)) = life.control else { return vec![] };
        match (steering, life.phase) {
            (Control::Restart, _) | (_, Phase::Starting | Phase::Restarting(_)) => vec![Restart],
            (_, Phase::Running) => vec![Restart, Pause, Drain],
            (_, Phase::Paused) => vec![Resume, Restart, Drain],
            (_, Phase::Draining | Phase::Stopped) => vec![Resume, Restart],
        }
    }

    /// Has an action carried out, if it can be now: the actor may have changed since it was allowed.
    pub fn control(&self, action: Action, reason: String) -> Result<()> {
        self.must_allow(action)?;
        let control = held(&self.life).control.as_ref().map(|(_, control)| control.clone());
        match control.is_some_and(|control| control(action, reason)) {
            true => Ok(()),
            false => {
                Err(Error::Unavailable("its supervisor is being started afresh itself".into()))
            }
        }
    }

    /// Says why an action cannot be carried out now, if it cannot.
    pub fn must_allow(&self, action: Action) -> Result<()> {
        let allowed = self.actions();
        if allowed.contains(&action) {
            return Ok(());
        }
        let what = match allowed.is_empty() {
            true => "it runs as long as its process does".to_owned(),
            false => format!(
                "now there is: {}",
                allowed.iter().map(Action::to_string).collect::<Vec<_>>().join(", ")
            ),
        };
        let (path, action) = (&self.path, action.to_string());
        Err(Error::NotAllowed(format!("{path} cannot be told to {action}; {what}")))
    }

    /// Says how the actor is asked to show its state although no message comes.
    pub(crate) fn on_state_request(&self, nudge: impl Fn() + Send + Sync + 'static) {
        held(&self.life).nudge = Some(Arc::new(nudge));
    }

    /// Shows a view of the actor's state, if somebody wants to see it.
    pub fn show(&self, view: impl FnOnce() -> Value) {
        if self.state_wanted.load(Relaxed) && self.state_wanted.swap(false, Relaxed) {
            self.state.send_replace(Some(State { view: view(), at: now() }));
        }
    }

    /// The actor's own view of its state; while it is at something for long, the last one that it gave.
    pub async fn state(&self) -> Option<State> {
        let mut shown = self.state.subscribe();
        let is_asked_already = self.state_wanted.swap(true, Relaxed);
        let nudge = held(&self.life).nudge.clone();
        if let Some(nudge) = nudge {
            if !is_asked_already {
                nudge();
            }
            tokio::time::timeout(STATE_PATIENCE, shown.changed()).await.ok();
        }
        shown.borrow().clone()
    }

    /// How many messages of each name were handled.
    pub fn messages(&self) -> Vec<(&'static str, u64)> {
        let count = |place| (self.names.name(place), self.names.counts[place].load(Relaxed));
        let mut counts: Vec<_> = (0..NAMES).map(count).filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// The last failures, the newest first.
    pub fn failures(&self) -> Vec<Failure> {
        held(&self.life).failures.iter().cloned().collect()
    }

    /// Time spent on messages so far, with what is being spent on those at hand.
    pub fn busy(&self) -> Duration {
        let now = self.age();
        let running = |slot: &Slot| match slot.since.load(Relaxed) {
            0 => 0,
            since => now.saturating_sub(since - 1),
        };
        let running: u64 = self.slots.iter().map(running).sum();
        Duration::from_micros(self.busy_micros.load(Relaxed) + running)
    }

    /// Time that messages waited so far.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_micros.load(Relaxed))
    }

    fn age(&self) -> u64 {
        micros(self.born.elapsed())
    }

    /// The message that it is at for the longest time.
    pub(super) fn current(&self) -> Option<Current> {
        let running = self.slots.iter().filter(|slot| slot.since.load(Relaxed) > 0);
        let slot = running.min_by_key(|slot| slot.since.load(Relaxed))?;
        let since = slot.since.load(Relaxed).checked_sub(1)?;
        let (high, low) = (slot.trace_high.load(Relaxed), slot.trace_low.load(Relaxed));
        let trace = u128::from(high) << 64 | u128::from(low);
        let since_birth = SignedDuration::from_micros(since.cast_signed());
        Some(Current {
            message: self.names.name(slot.name.load(Relaxed)),
            since: self.born_at.saturating_add(since_birth).unwrap_or(self.born_at),
            for_ms: self.age().saturating_sub(since) as f64 / 1e3,
            trace_id: (trace != 0).then(|| format!("{trace:032x}")),
        })
    }

    /// How it fares; `current` is what it is at.
    pub(super) fn status(&self, current: Option<&Current>, refuses: bool) -> Status {
        let life = held(&self.life);
        let stuck = current.is_some_and(|current| current.for_ms > STUCK.as_secs_f64() * 1e3);
        match life.phase {
            Phase::Starting => Status::Starting,
            Phase::Restarting(_) => Status::Restarting,
            Phase::Stopped => Status::Stopped,
            // A slow client keeps a request open, and nothing else waits for it.
            _ if stuck && self.kind != ActorKind::HttpServer => Status::Stuck,
            Phase::Paused => Status::Paused,
            Phase::Draining => Status::Draining,
            // A service takes no more than it can: it refuses nobody.
            Phase::Running
                if self.kind != ActorKind::Service && (refuses || self.is_at_capacity()) =>
            {
                Status::Overloaded
            }
            Phase::Running if current.is_some() => Status::Busy,
            Phase::Running => Status::Running,
        }
    }

    /// When it is started again, when it was started, how often again, and how it last failed.
    pub(super) fn life(&self) -> (Option<Timestamp>, Option<Timestamp>, u64, Option<Failure>) {
        let life = held(&self.life);
        let next_try_at = match life.phase {
            Phase::Restarting(next) => Some(next),
            _ => None,
        };
        (next_try_at, life.started_at, life.restarts, life.failures.front().cloned())
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        held(&self.recent)
    }
}

impl std::fmt::Debug for ActorMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What becomes of a message that was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Rejected,
    Expired,
    Opened,
}

/// A place in a mailbox. Whatever becomes of the message, dropping it gives the place back and counts it.
#[derive(Debug)]
pub struct QueueGuard {
    actor_metrics: Arc<ActorMetrics>,
    since: Instant,
    deadline: Option<Instant>,
    fate: Fate,
}

impl QueueGuard {
    /// The message was refused.
    pub fn reject(mut self) {
        self.fate = Fate::Rejected;
    }

    /// Nobody waits for it any more.
    pub fn expire(mut self) {
        self.fate = Fate::Expired;
    }

    /// The handling of a message of this name begins at `now`.
    pub fn open(
        mut self,
        name: &'static str,
        trace: Option<SpanContext>,
        now: Instant,
    ) -> ProcessingGuard {
        self.fate = Fate::Opened;
        let actor_metrics = &self.actor_metrics;
        let name = actor_metrics.names.place(name);
        if actor_metrics.counts {
            let waited = now.saturating_duration_since(self.since);
            actor_metrics.waited.record(waited);
            actor_metrics.waited_micros.fetch_add(micros(waited), Relaxed);
            actor_metrics.names.counts[name].fetch_add(1, Relaxed);
        }
        let slot = actor_metrics.take_lane(name, trace, now);
        ProcessingGuard { guard: self, since: now, slot, trace, name, done: false }
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.actor_metrics.depth.fetch_sub(1, Relaxed);
        let overdue = || self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let counter = match self.fate {
            Fate::Opened => return,
            Fate::Rejected => &self.actor_metrics.rejected,
            Fate::Expired => &self.actor_metrics.expired,
            Fate::Lost if overdue() => &self.actor_metrics.expired,
            Fate::Lost if self.deadline.is_none() => return, // an owner's own: nobody waits for it
            Fate::Lost => &self.actor_metrics.lost,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl ActorMetrics {
    /// A free lane, unless all are taken: then this message is not shown.
    fn take_lane(&self, name: usize, trace: Option<SpanContext>, now: Instant) -> Option<usize> {
        let count = self.slots.len();
        let first = if count == 1 { 0 } else { self.next_lane.fetch_add(1, Relaxed) };
        let since = micros(now.saturating_duration_since(self.born)) + 1;
        for slot in (first..first.saturating_add(count.min(4))).map(|slot| slot % count) {
            let Slot { since: free, name: named, trace_high, trace_low } = &self.slots[slot];
            if free.compare_exchange(0, since, Relaxed, Relaxed).is_ok() {
                let trace = trace.map_or(0, |trace| trace.trace_id());
                named.store(name, Relaxed);
                trace_high.store((trace >> 64) as u64, Relaxed);
                trace_low.store(trace as u64, Relaxed);
                return Some(slot);
            }
        }
        None
    }
}

/// Measures the handling of a message for as long as it lives. Dropped before it is [`done`](ProcessingGuard::done), the
/// message is lost: its actor died of it, or was ended meanwhile.
#[derive(Debug)]
pub struct ProcessingGuard {
    guard: QueueGuard,
    since: Instant,
    slot: Option<usize>,
    trace: Option<SpanContext>,
    name: usize,
    done: bool,
}

impl ProcessingGuard {
    /// The message is dealt with.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for ProcessingGuard {
    fn drop(&mut self) {
        let actor_metrics = &self.guard.actor_metrics;
        if actor_metrics.counts {
            let took = self.since.elapsed();
            actor_metrics.took.record(took);
            // Time is counted once, however many messages share it.
            if self.slot.is_some() {
                actor_metrics.busy_micros.fetch_add(micros(took), Relaxed);
            }
        }
        if let Some(slot) = self.slot {
            actor_metrics.slots[slot].since.store(0, Relaxed);
        }
        if self.done {
            actor_metrics.handled.fetch_add(1, Relaxed);
        } else if !matches!(actor_metrics.kind, ActorKind::Service | ActorKind::HttpServer) {
            // What a service is cut off from comes again, and a client that goes away has gone.
            actor_metrics.lost.fetch_add(1, Relaxed);
            held(&actor_metrics.life).culprit =
                Some((actor_metrics.names.name(self.name).to_owned(), self.trace));
        }
    }
}
