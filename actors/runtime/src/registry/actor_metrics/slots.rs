//! The messages that are being handled, and the number of messages by name.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::time::Instant;

use super::ActorMetrics;
use super::histogram::micros;
use crate::trace::SpanContext;

/// The number of message names that are distinguished; the last one stands for all others.
pub(super) const MAX_NAMES: usize = 24;

/// How many slots are tried for a message. If all are taken, it is not shown as current.
const MAX_PROBES: usize = 4;

/// A message that is being handled.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// When the handler started, in microseconds since the metrics were created, plus one; 0 if the
    /// slot is free.
    since: AtomicU64,
    name: AtomicUsize,
    trace_high: AtomicU64,
    trace_low: AtomicU64,
}

impl Slot {
    /// For how long its handler has run at `now`, both in microseconds; 0 if the slot is free.
    pub(super) fn running_micros(&self, now: u64) -> u64 {
        match self.since.load(Relaxed) {
            0 => 0,
            since => now.saturating_sub(since - 1),
        }
    }

    /// The start, the index of the name and the trace id of the message in it.
    pub(super) fn current(&self) -> Option<(u64, usize, u128)> {
        let since = self.since.load(Relaxed).checked_sub(1)?;
        let (high, low) = (self.trace_high.load(Relaxed), self.trace_low.load(Relaxed));
        Some((since, self.name.load(Relaxed), u128::from(high) << 64 | u128::from(low)))
    }

    fn try_take(&self, since: u64, name: usize, trace_id: u128) -> bool {
        if self.since.compare_exchange(0, since, Relaxed, Relaxed).is_err() {
            return false;
        }
        self.name.store(name, Relaxed);
        self.trace_high.store((trace_id >> 64) as u64, Relaxed);
        self.trace_low.store(trace_id as u64, Relaxed);
        true
    }

    pub(super) fn release(&self) {
        self.since.store(0, Relaxed);
    }
}

impl ActorMetrics {
    /// Takes a free slot for a message; `None` if none is found.
    pub(super) fn take_slot(
        &self,
        name: usize,
        span: Option<SpanContext>,
        now: Instant,
    ) -> Option<usize> {
        let count = self.slots.len();
        let first = if count == 1 { 0 } else { self.next_slot.fetch_add(1, Relaxed) };
        let since = micros(now.saturating_duration_since(self.created)) + 1;
        let trace_id = span.map_or(0, |span| span.trace_id());
        (0..count.min(MAX_PROBES))
            .map(|probe| first.wrapping_add(probe) % count)
            .find(|slot| self.slots[*slot].try_take(since, name, trace_id))
    }
}

/// The number of messages by name.
#[derive(Debug)]
pub(super) struct MessageCounts {
    names: [OnceLock<&'static str>; MAX_NAMES],
    counts: [AtomicU64; MAX_NAMES],
}

impl MessageCounts {
    pub(super) fn new() -> MessageCounts {
        MessageCounts {
            names: [const { OnceLock::new() }; MAX_NAMES],
            counts: [const { AtomicU64::new(0) }; MAX_NAMES],
        }
    }

    /// The index of a name; the last one if all others are taken.
    pub(super) fn index(&self, name: &'static str) -> usize {
        let is_its = |known: &OnceLock<_>| *known.get_or_init(|| name) == name;
        self.names[..MAX_NAMES - 1].iter().position(is_its).unwrap_or(MAX_NAMES - 1)
    }

    pub(super) fn name(&self, index: usize) -> &'static str {
        self.names.get(index).and_then(|name| name.get()).unwrap_or(&"others")
    }

    pub(super) fn increment(&self, index: usize) {
        self.counts[index].fetch_add(1, Relaxed);
    }

    /// The name and the count at an index.
    pub(super) fn get(&self, index: usize) -> (&'static str, u64) {
        (self.name(index), self.counts[index].load(Relaxed))
    }
}
