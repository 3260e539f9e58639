//! What the inspector shows: actors, their tree, details and history.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::sync::atomic::Ordering::Relaxed;
use strum::Display;
use utoipa::ToSchema;

use super::actor_metrics::{ActorMetrics, Counts, State};
use super::status::{ActorKind, ControlAction, Current, Failure, Status};

/// An actor and its current metrics. Quantiles cover the last one to two minutes; they are null if no
/// message was handled in that time.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ActorView {
    /// Its path in the tree.
    #[schema(example = "shop/order/orders/0")]
    pub path: String,
    /// Its kind.
    pub kind: ActorKind,
    /// Its status.
    pub status: Status,
    /// When it restarts, if it failed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_try_at: Option<Timestamp>,
    /// When it started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// The number of restarts.
    pub restarts: u64,
    /// The number of messages that wait or are being handled.
    pub mailbox_depth: usize,
    /// The maximum depth since the process started.
    pub mailbox_high_water: usize,
    /// The maximum number of waiting messages.
    pub mailbox_capacity: Option<usize>,
    /// Median queue wait, in milliseconds.
    pub mailbox_p50_ms: Option<f64>,
    /// 99th percentile of the queue wait, in milliseconds.
    pub mailbox_p99_ms: Option<f64>,
    /// Maximum queue wait, in milliseconds.
    pub mailbox_max_ms: Option<f64>,
    /// Median handler duration, in milliseconds.
    pub handler_p50_ms: Option<f64>,
    /// 99th percentile of the handler duration, in milliseconds.
    pub handler_p99_ms: Option<f64>,
    /// Maximum handler duration, in milliseconds.
    pub handler_max_ms: Option<f64>,
    /// Messages handled in the last second.
    pub messages_per_second: f64,
    /// The fraction of the last second that was spent in handlers, 0 to 1.
    pub busy_share: f64,
    /// Messages handled since the process started.
    pub handled: u64,
    /// Messages refused because the mailbox was full or closed.
    pub rejected: u64,
    /// Messages dropped because their caller had timed out.
    pub expired: u64,
    /// Messages lost when their actor failed.
    pub lost: u64,
    /// The message that it handles.
    pub current: Option<Current>,
    /// Its last failure.
    pub last_failure: Option<Failure>,
    /// The actions that an administrator can request now.
    pub actions: Vec<ControlAction>,
}

/// An actor and its children.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tree {
    /// The actor.
    #[serde(flatten)]
    pub actor: ActorView,
    /// Its children.
    #[schema(no_recursion)]
    pub children: Vec<Tree>,
}

/// Everything known about an actor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Details {
    /// The actor.
    #[serde(flatten)]
    pub actor: ActorView,
    /// The number of handled messages by name.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub messages: serde_json::Map<String, Value>,
    /// Its last twenty failures, newest first.
    pub failures: Vec<Failure>,
    /// The state that it reports.
    #[schema(value_type = Option<Object>)]
    pub state: Option<Value>,
    /// When it reported that state.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub state_at: Option<Timestamp>,
    /// Queue wait since the process started.
    pub mailbox_histogram: Vec<Bucket>,
    /// Handler durations since the process started.
    pub handler_histogram: Vec<Bucket>,
    /// The paths of its children.
    pub children: Vec<String>,
}

/// A bucket of a histogram: durations above the previous bucket's bound and up to this one's.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Bucket {
    /// The upper bound in milliseconds.
    pub up_to_ms: f64,
    /// The number of durations.
    pub count: u32,
}

/// The order of a list of actors: numbers descending, paths ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, ToSchema, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of `ActorView`")]
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
    /// The number that an actor is sorted by. Missing quantiles sort last.
    pub fn key(self, actor: &ActorView) -> f64 {
        let or_last = |quantile: Option<f64>| quantile.unwrap_or(-1.0);
        match self {
            Sort::Path => 0.0,
            Sort::MailboxDepth => actor.mailbox_depth as f64,
            Sort::MailboxHighWater => actor.mailbox_high_water as f64,
            Sort::MailboxP50Ms => or_last(actor.mailbox_p50_ms),
            Sort::MailboxP99Ms => or_last(actor.mailbox_p99_ms),
            Sort::MailboxMaxMs => or_last(actor.mailbox_max_ms),
            Sort::HandlerP50Ms => or_last(actor.handler_p50_ms),
            Sort::HandlerP99Ms => or_last(actor.handler_p99_ms),
            Sort::HandlerMaxMs => or_last(actor.handler_max_ms),
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

/// The samples of an actor, one a second, newest last.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    /// Messages handled per second.
    pub messages_per_second: Vec<f32>,
    /// Messages that waited or were being handled.
    pub mailbox_depth: Vec<u32>,
    /// 99th percentile of the handler duration, in milliseconds.
    pub handler_p99_ms: Vec<Option<f32>>,
}

impl ActorView {
    /// The current view of an actor.
    pub fn of(actor_metrics: &ActorMetrics) -> ActorView {
        let current = actor_metrics.current();
        let recent = actor_metrics.recent();
        let (rate, busy_share, rejects) = (recent.rate, recent.busy_share, recent.rejects);
        let window = recent.window(actor_metrics);
        drop(recent);
        let (next_try_at, started_at, restarts, last_failure) = actor_metrics.lifecycle();
        ActorView {
            path: actor_metrics.path().to_owned(),
            kind: actor_metrics.kind(),
            status: actor_metrics.status(current.as_ref(), rejects),
            next_try_at,
            started_at,
            restarts,
            mailbox_depth: actor_metrics.depth(),
            mailbox_high_water: actor_metrics.high_water.load(Relaxed),
            mailbox_capacity: actor_metrics.capacity(),
            mailbox_p50_ms: window.queue_wait.quantile(0.5),
            mailbox_p99_ms: window.queue_wait.quantile(0.99),
            mailbox_max_ms: window.queue_wait.quantile(1.0),
            handler_p50_ms: window.handler.quantile(0.5),
            handler_p99_ms: window.handler.quantile(0.99),
            handler_max_ms: window.handler.quantile(1.0),
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

impl Details {
    pub(super) fn of(
        actor_metrics: &ActorMetrics,
        state: Option<State>,
        children: Vec<String>,
    ) -> Details {
        let buckets = |counts: Counts| {
            counts.buckets().map(|(up_to_ms, count)| Bucket { up_to_ms, count }).collect()
        };
        let counts = actor_metrics.messages().into_iter();
        Details {
            actor: ActorView::of(actor_metrics),
            messages: counts.map(|(name, count)| (name.to_owned(), count.into())).collect(),
            failures: actor_metrics.failures(),
            state_at: state.as_ref().map(|state| state.at),
            state: state.map(|state| state.view),
            mailbox_histogram: buckets(actor_metrics.queue_wait.counts()),
            handler_histogram: buckets(actor_metrics.handler.counts()),
            children,
        }
    }
}

impl History {
    pub(super) fn of(actor_metrics: &ActorMetrics) -> History {
        let recent = actor_metrics.recent();
        let samples = &recent.samples;
        History {
            messages_per_second: samples.iter().map(|sample| round(sample.rate)).collect(),
            mailbox_depth: samples.iter().map(|sample| sample.depth).collect(),
            handler_p99_ms: samples.iter().map(|sample| sample.p99_ms.map(round)).collect(),
        }
    }
}

/// Rounds to three decimals, which is enough for a chart.
fn round(value: f32) -> f32 {
    (value * 1e3).round() / 1e3
}
