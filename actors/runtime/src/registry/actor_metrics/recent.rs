//! Recent metrics: samples taken once a second, from which rates, recent quantiles and the history of
//! the last fifteen minutes are computed.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::ActorMetrics;
use super::histogram::{Counts, micros};

/// The number of samples that are kept: fifteen minutes.
pub(in crate::registry) const MAX_SAMPLES: usize = 900;

/// Recent quantiles cover one to two windows.
const WINDOW: Duration = Duration::from_secs(60);

/// One second of an actor.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry) struct Sample {
    /// Messages handled per second.
    pub rate: f32,
    /// The number of messages that wait or are being handled at its end.
    pub depth: u32,
    /// 99th percentile of the recent handler durations in milliseconds; none without messages.
    pub p99_ms: Option<f32>,
}

/// The recent metrics of an actor.
#[derive(Debug, Default)]
pub(in crate::registry) struct Recent {
    last: Option<Totals>,
    /// The histograms at the start of the previous window and of the current one.
    windows: Option<(WindowStart, WindowStart)>,
    /// Messages handled per second.
    pub rate: f64,
    /// The fraction of the last second that was spent in handlers, averaged over the slots.
    pub busy_share: f64,
    /// Whether messages were rejected in the last second.
    pub rejects: bool,
    /// The samples, newest last.
    pub samples: VecDeque<Sample>,
    /// Whether the actor was stuck at the last sample, so that it is logged once.
    pub stuck: bool,
}

/// The totals at the last sample.
#[derive(Debug)]
struct Totals {
    at: Instant,
    handled: u64,
    busy_micros: u64,
    rejected: u64,
}

/// The histograms at the start of a window.
#[derive(Debug, Clone, Default)]
struct WindowStart {
    at: Option<Instant>,
    counts: Window,
}

/// Queue waits and handler durations within a window.
#[derive(Debug, Clone, Default)]
pub(in crate::registry) struct Window {
    pub queue_wait: Counts,
    pub handler: Counts,
}

impl Window {
    fn since_creation(actor_metrics: &ActorMetrics) -> Window {
        Window {
            queue_wait: actor_metrics.queue_wait.counts(),
            handler: actor_metrics.handler.counts(),
        }
    }
}

impl Recent {
    /// Takes a sample at `now` and keeps the last `kept`.
    pub fn sample(&mut self, actor_metrics: &ActorMetrics, now: Instant, kept: usize) {
        let handled = actor_metrics.handled.load(Relaxed);
        let rejected = actor_metrics.rejected.load(Relaxed);
        let busy_micros = micros(actor_metrics.busy());
        if let Some(last) = &self.last {
            let elapsed = now.saturating_duration_since(last.at).as_secs_f64().max(1e-3);
            self.rate = handled.saturating_sub(last.handled) as f64 / elapsed;
            let busy = busy_micros.saturating_sub(last.busy_micros) as f64 / 1e6 / elapsed;
            self.busy_share = (busy / actor_metrics.slots.len() as f64).min(1.0);
            self.rejects = rejected > last.rejected;
        }
        let has_changed = self.last.as_ref().is_none_or(|last| last.handled != handled);
        self.last = Some(Totals { at: now, handled, busy_micros, rejected });
        self.advance_window(actor_metrics, now);
        let is_young = now.duration_since(actor_metrics.created) < WINDOW;
        let p99_ms = match self.samples.back() {
            Some(last) if !has_changed && is_young => last.p99_ms,
            _ => self.window(actor_metrics).handler.quantile(0.99).map(|p99| p99 as f32),
        };
        let depth = u32::try_from(actor_metrics.depth()).unwrap_or(u32::MAX);
        self.samples.push_back(Sample { rate: self.rate as f32, depth, p99_ms });
        while self.samples.len() > kept {
            self.samples.pop_front();
        }
    }

    fn advance_window(&mut self, actor_metrics: &ActorMetrics, now: Instant) {
        let is_over =
            |start: &WindowStart| start.at.is_none_or(|at| now.duration_since(at) >= WINDOW);
        match &mut self.windows {
            None => self.windows = Some(Default::default()),
            Some((previous, current)) if is_over(current) => {
                let counts = Window::since_creation(actor_metrics);
                *previous = std::mem::replace(current, WindowStart { at: Some(now), counts });
            }
            Some(_) => {}
        }
    }

    /// Queue waits and handler durations of the last one to two minutes.
    pub fn window(&self, actor_metrics: &ActorMetrics) -> Window {
        let Window { queue_wait, handler } = Window::since_creation(actor_metrics);
        match &self.windows {
            Some((WindowStart { counts, .. }, _)) => Window {
                queue_wait: queue_wait.since(&counts.queue_wait),
                handler: handler.since(&counts.handler),
            },
            None => Window { queue_wait, handler },
        }
    }
}
