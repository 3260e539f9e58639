//! Histograms of durations with exponential buckets. A quantile is off by at most an eighth.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The number of buckets for each doubling of the duration.
const STEPS: u64 = 4;

/// The number of doublings, in microseconds. The last bucket holds all durations over a minute.
const DOUBLINGS: usize = 26;

const BUCKETS: usize = STEPS as usize * (DOUBLINGS - 1);

/// Counts durations with one atomic addition each. Counts wrap at 2^32: use differences.
#[derive(Debug)]
pub(in crate::registry) struct Histogram([AtomicU32; BUCKETS]);

/// The content of a histogram at a moment, or the difference between two.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Counts([u32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Default for Counts {
    fn default() -> Counts {
        Counts([0; BUCKETS])
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        self.0[bucket(micros(duration))].fetch_add(1, Relaxed);
    }

    /// The current content.
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].load(Relaxed)))
    }
}

impl Counts {
    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].wrapping_sub(earlier.0[bucket])))
    }

    /// The number of durations.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// The quantile `q` (0 to 1) in milliseconds; `None` if nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        let rank = (q * total as f64).ceil().max(1.0) as u64;
        let mut counted = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            counted += u64::from(*count);
            if total > 0 && counted >= rank {
                return Some(midpoint(bucket) / 1e3);
            }
        }
        None
    }

    /// The buckets that are not empty: upper bound in milliseconds, and count.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u32)> {
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (lower_bound(bucket + 1) as f64 / 1e3, *count))
    }
}

/// A duration in whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The bucket of a duration in microseconds. The first four buckets hold one value each.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2());
    let step = (micros >> (doubling - 2)) % STEPS;
    (((doubling - 1) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The shortest duration of a bucket in microseconds.
fn lower_bound(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if doubling == 0 { step } else { (STEPS + step) << (doubling - 1) }
}

fn midpoint(bucket: usize) -> f64 {
    let (shortest, longest) = (lower_bound(bucket), lower_bound(bucket + 1) - 1);
    (shortest + longest) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_adjoin() {
        for at in 0..BUCKETS - 1 {
            assert_eq!(bucket(lower_bound(at)), at);
            assert_eq!(bucket(lower_bound(at + 1) - 1), at);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_off_by_an_eighth_at_most() {
        let histogram = Histogram::default();
        (1..=10_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (q, exact_ms) in [(0.5, 5.0), (0.99, 9.9), (1.0, 10.0), (0.001, 0.01)] {
            let read = histogram.counts().quantile(q).unwrap();
            assert!((read / exact_ms - 1.0).abs() <= 0.125, "{q}: {read} for {exact_ms}");
        }
    }

    #[test]
    fn a_difference_contains_the_durations_between_two_readings() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(1));
        let before = histogram.counts();
        assert_eq!(histogram.counts().since(&before).quantile(0.5), None);
        histogram.record(Duration::from_micros(2));
        let gained = histogram.counts().since(&before);
        assert_eq!((gained.total(), gained.quantile(0.99)), (1, Some(0.002)));
        assert_eq!(gained.buckets().collect::<Vec<_>>(), [(0.003, 1)]);
    }
}
