//! How long things took: counted in buckets that grow with what they count, so that a reading is off by an eighth at most.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Each doubling of the time is split into so many buckets.
const STEPS: u64 = 4;

/// How often the time doubles: the last bucket holds whatever took over a minute.
const DOUBLINGS: usize = 26;

const BUCKETS: usize = STEPS as usize * (DOUBLINGS - 1);

/// Counts durations; to count one is one atomic addition. Counts wrap after four thousand million: read differences.
#[derive(Debug)]
pub struct Histogram([AtomicU32; BUCKETS]);

/// What a histogram held at a moment, or what it gained between two.
#[derive(Debug, Clone)]
pub struct Counts([u32; BUCKETS]);

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
    /// Counts one.
    pub fn record(&self, took: Duration) {
        self.0[bucket(micros(took))].fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].load(Relaxed)))
    }
}

impl Counts {
    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].wrapping_sub(earlier.0[bucket])))
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// The time, in milliseconds, within which this `share` (0 to 1) of them was done; none if there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.total();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut counted = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            counted += u64::from(*count);
            if total > 0 && counted >= rank {
                return Some(middle(bucket) / 1e3);
            }
        }
        None
    }

    /// The buckets that hold any: up to how many milliseconds, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u32)> {
        let held = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| (first(bucket + 1) as f64 / 1e3, *count))
    }
}

/// Whole microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The bucket of so many microseconds: the first four hold one value each, then four share each doubling.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2());
    let step = (micros >> (doubling - 2)) % STEPS;
    (((doubling - 1) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The least number of microseconds in a bucket.
fn first(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if doubling == 0 { step } else { (STEPS + step) << (doubling - 1) }
}

fn middle(bucket: usize) -> f64 {
    let (least, most) = (first(bucket), first(bucket + 1) - 1);
    (least + most) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for at in 0..BUCKETS - 1 {
            assert_eq!(bucket(first(at)), at);
            assert_eq!(bucket(first(at + 1) - 1), at);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_off_by_an_eighth_at_most() {
        let histogram = Histogram::default();
        (1..=10_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (share, exact_ms) in [(0.5, 5.0), (0.99, 9.9), (1.0, 10.0), (0.001, 0.01)] {
            let read = histogram.counts().quantile(share).unwrap();
            assert!((read / exact_ms - 1.0).abs() <= 0.125, "{share}: {read} for {exact_ms}");
        }
    }

    #[test]
    fn a_difference_holds_what_came_between() {
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
