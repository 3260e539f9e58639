//! What was lately: readings taken once a second, from which rates, quantiles and the last fifteen minutes follow.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::actor_metrics::ActorMetrics;
use super::histogram::{Counts, micros};

/// Fifteen minutes, a second each.
pub(super) const SAMPLES: usize = 900;

/// Quantiles are of what was done within the last one to two of this.
const WINDOW: Duration = Duration::from_secs(60);

/// A second of an actor's life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Messages handled a second.
    pub rate: f32,
    /// Messages that waited or were being handled at its end.
    pub depth: u32,
    /// Within how many milliseconds 99 % of the last messages were handled; none if there were none lately.
    pub p99_ms: Option<f32>,
}

/// An actor's readings.
#[derive(Debug, Default)]
pub(super) struct Recent {
    last: Option<Last>,
    /// What was counted at the begin of the window before this one, and of this one.
    windows: Option<(Counted, Counted)>,
    /// Messages handled a second.
    pub rate: f64,
    /// The share of the last second that was spent on messages, of each lane.
    pub busy_share: f64,
    /// Whether a message was refused in the last second.
    pub refused: bool,
    /// The last seconds, the newest last.
    pub samples: VecDeque<Sample>,
    /// Whether it was logged that the actor is stuck.
    pub stuck: bool,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    handled: u64,
    busy_micros: u64,
    rejected: u64,
}

/// What was counted up to a moment.
#[derive(Debug, Clone, Default)]
struct Counted {
    at: Option<Instant>,
    waited: Counts,
    took: Counts,
}

impl Counted {
    fn now(actor_metrics: &ActorMetrics, at: Instant) -> Counted {
        Counted {
            at: Some(at),
            waited: actor_metrics.waited.counts(),
            took: actor_metrics.took.counts(),
        }
    }
}

/// How long messages waited and took lately.
#[derive(Debug)]
pub(super) struct Lately {
    pub waited: Counts,
    pub took: Counts,
}

impl Recent {
    /// Reads the probe at `now`, and remembers so many seconds.
    pub fn sample(&mut self, actor_metrics: &ActorMetrics, now: Instant, kept: usize) {
        let (handled, rejected) =
            (actor_metrics.handled.load(Relaxed), actor_metrics.rejected.load(Relaxed));
        let busy_micros = micros(actor_metrics.busy());
        if let Some(last) = &self.last {
            let passed = now.saturating_duration_since(last.at).as_secs_f64().max(1e-3);
            self.rate = handled.saturating_sub(last.handled) as f64 / passed;
            let busy = busy_micros.saturating_sub(last.busy_micros) as f64 / 1e6 / passed;
            self.busy_share = (busy / actor_metrics.slots() as f64).min(1.0);
            self.refused = rejected > last.rejected;
        }
        let is_new = self.last.as_ref().is_none_or(|last| last.handled != handled);
        self.last = Some(Last { at: now, handled, busy_micros, rejected });
        self.turn_window(actor_metrics, now);
        let p99_ms = match self.samples.back() {
            Some(last) if !is_new && now.duration_since(actor_metrics.born) < WINDOW => last.p99_ms,
            _ => self.lately(actor_metrics).took.quantile(0.99).map(|p99| p99 as f32),
        };
        let depth = u32::try_from(actor_metrics.depth()).unwrap_or(u32::MAX);
        self.samples.push_back(Sample { rate: self.rate as f32, depth, p99_ms });
        while self.samples.len() > kept {
            self.samples.pop_front();
        }
    }

    fn turn_window(&mut self, actor_metrics: &ActorMetrics, now: Instant) {
        let is_over = |begin: &Counted| begin.at.is_none_or(|at| now.duration_since(at) >= WINDOW);
        match &mut self.windows {
            None => self.windows = Some(Default::default()),
            Some((before, this)) if is_over(this) => {
                *before = std::mem::replace(this, Counted::now(actor_metrics, now));
            }
            Some(_) => {}
        }
    }

    /// How long messages waited and took within the last one to two minutes.
    pub fn lately(&self, actor_metrics: &ActorMetrics) -> Lately {
        let (waited, took) = (actor_metrics.waited.counts(), actor_metrics.took.counts());
        match &self.windows {
            Some((before, _)) => {
                Lately { waited: waited.since(&before.waited), took: took.since(&before.took) }
            }
            None => Lately { waited, took },
        }
    }
}
