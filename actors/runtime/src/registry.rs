//! The inspector: every actor of a process by its place in the tree, how it fares, and how it is steered.

mod actor_metrics;
mod histogram;
mod recent;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::{Error, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use strum::{Display, EnumString};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

pub use actor_metrics::{
    ActorKind, ActorMetrics, Control, Phase, ProcessingGuard, QueueGuard, State,
};
use recent::SAMPLES;

use crate::{HandlerResult, Service};

/// The samples of all actors together take no more memory than so many.
const MOST_SAMPLES: usize = 900_000;

/// How an actor fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is being started.
    Starting,
    /// It waits for work.
    Running,
    /// It is at a message.
    Busy,
    /// It has been at one message for over two seconds.
    Stuck,
    /// It refuses messages: as many wait as may.
    Overloaded,
    /// An administrator has it wait.
    Paused,
    /// It works off what waits and takes nothing new.
    Draining,
    /// It died, and is started again in a moment.
    Restarting,
    /// It has ended.
    Stopped,
}

/// What an administrator does with an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Action {
    /// It ends at once and is started afresh. What it is at is lost; what waits for an owner is handled by the next.
    Restart,
    /// It handles nothing until it is resumed; messages wait.
    Pause,
    /// It goes on.
    Resume,
    /// It works off what waits, takes nothing new, and stops.
    Drain,
}

impl Action {
    /// Whether somebody may miss what it takes away, so that it needs a reason.
    pub fn is_destructive(self) -> bool {
        self != Action::Resume
    }
}

/// How an actor failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Failure {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// What it was at.
    pub message: Option<String>,
    /// The trace that this belongs to.
    pub trace_id: Option<String>,
}

/// What an actor is at.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Current {
    /// The message's name.
    pub message: &'static str,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// For how long, in milliseconds.
    pub for_ms: f64,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
}

/// An actor, as it fares now. Quantiles are of the last one to two minutes, and none when nothing was handled in them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ActorView {
    /// Its place in the tree.
    #[schema(example = "shop/order/orders/0")]
    pub path: String,
    /// What sort of actor.
    pub kind: ActorKind,
    /// How it fares.
    pub status: Status,
    /// When it is started again, if it died.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_try_at: Option<Timestamp>,
    /// Since when it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// How often it was started again.
    pub restarts: u64,
    /// Messages that wait or are being handled.
    pub mailbox_depth: usize,
    /// The most there ever were.
    pub mailbox_high_water: usize,
    /// At most so many wait.
    pub mailbox_capacity: Option<usize>,
    /// How long messages waited, in milliseconds: half of them at most so long.
    pub mailbox_p50_ms: Option<f64>,
    /// 99 of 100 at most so long.
    pub mailbox_p99_ms: Option<f64>,
    /// The longest.
    pub mailbox_max_ms: Option<f64>,
    /// How long messages took to handle, in milliseconds: half of them at most so long.
    pub handler_p50_ms: Option<f64>,
    /// 99 of 100 at most so long.
    pub handler_p99_ms: Option<f64>,
    /// The longest.
    pub handler_max_ms: Option<f64>,
    /// Messages handled in the last second.
    pub messages_per_second: f64,
    /// The share of the last second that was spent on messages, 0 to 1.
    pub busy_share: f64,
    /// Messages handled.
    pub handled: u64,
    /// Messages refused: too many waited.
    pub rejected: u64,
    /// Messages dropped unhandled: nobody waited for them any more.
    pub expired: u64,
    /// Messages that ended with their actor.
    pub lost: u64,
    /// What it is at.
    pub current: Option<Current>,
    /// How it last failed.
    pub last_failure: Option<Failure>,
    /// What an administrator may do with it now.
    pub actions: Vec<Action>,
}

/// An actor and those below it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tree {
    /// It.
    #[serde(flatten)]
    pub actor: ActorView,
    /// Those below it.
    #[schema(no_recursion)]
    pub children: Vec<Tree>,
}

/// All that is known of an actor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Details {
    /// It.
    #[serde(flatten)]
    pub actor: ActorView,
    /// How many messages of each name it handled.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub messages: serde_json::Map<String, Value>,
    /// Its last twenty failures, the newest first.
    pub failures: Vec<Failure>,
    /// Its own view of its state.
    #[schema(value_type = Option<Object>)]
    pub state: Option<Value>,
    /// When it gave that view.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub state_at: Option<Timestamp>,
    /// How long messages waited since the process began.
    pub mailbox_histogram: Vec<Bucket>,
    /// How long messages took since the process began.
    pub handler_histogram: Vec<Bucket>,
    /// The paths of those below it.
    pub children: Vec<String>,
}

/// How many took up to so long, and longer than the bucket before.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Bucket {
    /// Milliseconds.
    pub up_to_ms: f64,
    /// How many.
    pub count: u32,
}

/// What a list of actors is sorted by: figures from the highest, paths from A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, ToSchema, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of an actor")]
pub enum Sort {
    #[default]
    Path,
    MailboxDepth,
    MailboxHighWater,
    MailboxP50Ms,
    MailboxP99Ms,
    MailboxMaxMs,
    HandlerP50Ms,
    HandlerP99Ms,
    HandlerMaxMs,
    MessagesPerSecond,
    BusyShare,
    Handled,
    Rejected,
    Expired,
    Lost,
    Restarts,
}

impl Sort {
    /// What an actor is sorted by. Figures that are missing come last.
    pub fn figure(self, actor: &ActorView) -> f64 {
        let known = |figure: Option<f64>| figure.unwrap_or(-1.0);
        match self {
            Sort::Path => 0.0,
            Sort::MailboxDepth => actor.mailbox_depth as f64,
            Sort::MailboxHighWater => actor.mailbox_high_water as f64,
            Sort::MailboxP50Ms => known(actor.mailbox_p50_ms),
            Sort::MailboxP99Ms => known(actor.mailbox_p99_ms),
            Sort::MailboxMaxMs => known(actor.mailbox_max_ms),
            Sort::HandlerP50Ms => known(actor.handler_p50_ms),
            Sort::HandlerP99Ms => known(actor.handler_p99_ms),
            Sort::HandlerMaxMs => known(actor.handler_max_ms),
            Sort::MessagesPerSecond => actor.messages_per_second,
            Sort::BusyShare => actor.busy_share,
            Sort::Handled => actor.handled as f64,
            Sort::Rejected => actor.rejected as f64,
            Sort::Expired => actor.expired as f64,
            Sort::Lost => actor.lost as f64,
            Sort::Restarts => actor.restarts as f64,
        }
    }
}

/// The seconds that are remembered of an actor, the newest last.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    /// Messages handled a second.
    pub messages_per_second: Vec<f32>,
    /// Messages that waited or were being handled.
    pub mailbox_depth: Vec<u32>,
    /// Within how many milliseconds 99 of 100 were handled.
    pub handler_p99_ms: Vec<Option<f32>>,
}

/// All actors of a process, as one branch of their tree sees them.
#[derive(Debug, Clone)]
pub struct ActorRegistry {
    all: Arc<RwLock<All>>,
    path: String,
}

#[derive(Debug, Default)]
struct All {
    all_metrics: BTreeMap<String, Arc<ActorMetrics>>,
    /// The branches that are nodes: none sees the others.
    nodes: Vec<String>,
    /// Whether what is handled is counted.
    counts: bool,
}

impl ActorRegistry {
    /// Of a tree whose root has this name.
    pub fn new(root: &str) -> ActorRegistry {
        ActorRegistry::counting(root, true)
    }

    /// Of a tree whose root has this name, and whether it counts and times what is handled.
    pub fn counting(root: &str, counts: bool) -> ActorRegistry {
        let all = All { counts, ..All::default() };
        ActorRegistry { all: Arc::new(RwLock::new(all)), path: root.to_owned() }
    }

    /// The branch of this name.
    pub fn branch(&self, name: &str) -> ActorRegistry {
        ActorRegistry { all: self.all.clone(), path: format!("{}/{name}", self.path) }
    }

    /// The branch of a node, which does not show the other nodes of the process.
    pub fn node(&self, name: &str) -> ActorRegistry {
        let node = self.branch(name);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if !all.nodes.contains(&node.path) {
            all.nodes.push(node.path.clone());
        }
        drop(all);
        node
    }

    /// The measures of the actor at the root of this branch.
    pub fn actor_metrics(
        &self,
        kind: ActorKind,
        capacity: Option<usize>,
        slots: usize,
    ) -> Arc<ActorMetrics> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let counts = all.counts;
        let actor_metrics = all.all_metrics.entry(self.path.clone());
        let make = || Arc::new(ActorMetrics::new(self.path.clone(), kind, capacity, slots, counts));
        actor_metrics.or_insert_with(make).clone()
    }

    /// All below the root of this branch have ended with it.
    pub fn end(&self) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let below = format!("{}/", self.path);
        let all_metrics = all
            .all_metrics
            .values()
            .filter(|actor_metrics| actor_metrics.path().starts_with(&below));
        all_metrics
            .filter(|actor_metrics| actor_metrics.kind() != ActorKind::Pool)
            .for_each(|it| it.enter(Phase::Stopped));
    }

    /// The probe at a path, of those that this branch may see.
    pub fn find(&self, path: &str) -> Result<Arc<ActorMetrics>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let found =
            all.all_metrics.get(path).filter(|actor_metrics| self.sees(&all, actor_metrics.path()));
        found.cloned().ok_or(Error::NotFound)
    }

    fn sees(&self, all: &All, path: &str) -> bool {
        let is_in = |node: &String| {
            path.strip_prefix(node.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !all.nodes.iter().any(|node| *node != self.path && is_in(node))
    }

    /// Those that this branch may see, by their paths.
    pub fn all_metrics(&self) -> Vec<Arc<ActorMetrics>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.all_metrics
            .values()
            .filter(|actor_metrics| self.sees(&all, actor_metrics.path()))
            .cloned()
            .collect()
    }

    /// All that this branch may see, sorted by their paths.
    pub fn actors(&self) -> Vec<ActorView> {
        self.all_metrics().iter().map(|actor_metrics| ActorView::of(actor_metrics)).collect()
    }

    /// The same as a tree.
    pub fn tree(&self) -> Result<Tree> {
        let mut trees: BTreeMap<String, Tree> = BTreeMap::new();
        let read = |actor: ActorView| (actor.path.clone(), Tree { actor, children: vec![] });
        trees.extend(self.actors().into_iter().map(read));
        // From the last path to the first, so that each is whole before it goes to the one above it.
        while let Some((path, mut tree)) = trees.pop_last() {
            tree.children.reverse();
            let above = above(&path, |above| trees.contains_key(above));
            match above.map(str::to_owned).and_then(|above| trees.get_mut(&above)) {
                Some(above) => above.children.push(tree),
                None => return Ok(tree),
            }
        }
        Err(Error::NotFound)
    }

    /// All that is known of one.
    pub async fn details(&self, path: &str) -> Result<Details> {
        let actor_metrics = self.find(path)?;
        let state = actor_metrics.state().await;
        let paths: Vec<String> = self
            .all_metrics()
            .iter()
            .map(|actor_metrics| actor_metrics.path().to_owned())
            .collect();
        let is_below = |other: &String| {
            above(other, |above| paths.iter().any(|path| path == above)) == Some(path)
        };
        let buckets = |counts: histogram::Counts| {
            counts.buckets().map(|(up_to_ms, count)| Bucket { up_to_ms, count }).collect()
        };
        let counts = actor_metrics.messages().into_iter();
        Ok(Details {
            actor: ActorView::of(&actor_metrics),
            messages: counts.map(|(name, count)| (name.to_owned(), count.into())).collect(),
            failures: actor_metrics.failures(),
            state_at: state.as_ref().map(|state| state.at),
            state: state.map(|state| state.view),
            mailbox_histogram: buckets(actor_metrics.waited.counts()),
            handler_histogram: buckets(actor_metrics.took.counts()),
            children: paths.iter().filter(|path| is_below(path)).cloned().collect(),
        })
    }

    /// What is remembered of all that this branch may see, by their paths.
    pub fn history(&self) -> BTreeMap<String, History> {
        let remembered = |actor_metrics: &Arc<ActorMetrics>| {
            let recent = actor_metrics.recent();
            let samples = &recent.samples;
            let history = History {
                messages_per_second: samples.iter().map(|sample| round(sample.rate)).collect(),
                mailbox_depth: samples.iter().map(|sample| sample.depth).collect(),
                handler_p99_ms: samples.iter().map(|sample| sample.p99_ms.map(round)).collect(),
            };
            (actor_metrics.path().to_owned(), history)
        };
        self.all_metrics().iter().map(remembered).collect()
    }

    /// Reads every probe of the process once.
    fn sample(&self, now: Instant) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let kept = SAMPLES.min(MOST_SAMPLES / all.all_metrics.len().max(1)).max(1);
        for actor_metrics in all.all_metrics.values() {
            let current = actor_metrics.current();
            let mut recent = actor_metrics.recent();
            recent.sample(actor_metrics, now, kept);
            let stuck = actor_metrics.status(current.as_ref(), false) == Status::Stuck;
            if let (true, false, Some(at)) = (stuck, recent.stuck, &current) {
                let (actor, message, trace) =
                    (actor_metrics.path(), at.message, at.trace_id.as_deref());
                tracing::warn!(
                    actor,
                    message,
                    trace.id = trace,
                    for_ms = at.for_ms,
                    "an actor is stuck"
                );
            }
            recent.stuck = stuck;
        }
    }
}

/// Three significant digits are enough to draw.
fn round(figure: f32) -> f32 {
    (figure * 1e3).round() / 1e3
}

/// The path of the actor above this one: the longest that there is.
fn above(path: &str, there_is: impl Fn(&str) -> bool) -> Option<&str> {
    let mut path = path;
    while let Some((above, _)) = path.rsplit_once('/') {
        if there_is(above) {
            return Some(above);
        }
        path = above;
    }
    None
}

impl ActorView {
    /// How the actor fares now that this probe measures.
    pub fn of(actor_metrics: &ActorMetrics) -> ActorView {
        let current = actor_metrics.current();
        let recent = actor_metrics.recent();
        let (rate, busy_share, refused) = (recent.rate, recent.busy_share, recent.refused);
        let lately = recent.lately(actor_metrics);
        drop(recent);
        let (next_try_at, started_at, restarts, last_failure) = actor_metrics.life();
        ActorView {
            path: actor_metrics.path().to_owned(),
            kind: actor_metrics.kind(),
            status: actor_metrics.status(current.as_ref(), refused),
            next_try_at,
            started_at,
            restarts,
            mailbox_depth: actor_metrics.depth(),
            mailbox_high_water: actor_metrics.high_water.load(Relaxed),
            mailbox_capacity: actor_metrics.capacity(),
            mailbox_p50_ms: lately.waited.quantile(0.5),
            mailbox_p99_ms: lately.waited.quantile(0.99),
            mailbox_max_ms: lately.waited.quantile(1.0),
            handler_p50_ms: lately.took.quantile(0.5),
            handler_p99_ms: lately.took.quantile(0.99),
            handler_max_ms: lately.took.quantile(1.0),
            messages_per_second: (rate * 10.0).round() / 10.0,
            busy_share: (busy_share * 1e3).round() / 1e3,
            handled: actor_metrics.handled.load(Relaxed),
            rejected: actor_metrics.rejected.load(Relaxed),
            expired: actor_metrics.expired.load(Relaxed),
            lost: actor_metrics.lost.load(Relaxed),
            current,
            last_failure,
            actions: actor_metrics.actions(),
        }
    }
}

/// Reads every probe once a second.
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
