//! Exponential backoff with jitter.

use std::time::{Duration, Instant};

/// Delays between retries. Each failure doubles the delay up to a maximum; a period without a failure
/// of twice the maximum resets it.
///
/// ```
/// use std::time::Duration;
/// use shop_runtime::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// assert!(backoff.next_delay() <= Duration::from_millis(100));
/// assert!(backoff.next_delay() <= Duration::from_millis(200));
/// ```
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    /// When the last delay ended.
    last: Instant,
}

impl Backoff {
    /// Delays that grow from `min` to `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, failures: 0, last: Instant::now() }
    }

    /// Counts a failure and returns the delay before the next attempt: a random value between half of
    /// the doubled delay and all of it.
    pub fn next_delay(&mut self) -> Duration {
        if self.last.elapsed() > 2 * self.max {
            self.failures = 0;
        }
        let full = self.min.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let delay = full.mul_f64(rand::random_range(0.5..=1.0));
        self.last = Instant::now() + delay;
        delay
    }
}

impl Default for Backoff {
    /// 50 ms to 3 s, for dependencies outside the process.
    fn default() -> Backoff {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full_ms in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay().as_millis();
            assert!((full_ms / 2..=full_ms).contains(&delay), "{delay} ms of {full_ms} ms");
        }
    }

    #[test]
    fn a_period_without_failures_resets_the_delay() {
        let mut backoff = Backoff::new(Duration::from_millis(8), Duration::from_millis(16));
        let longest = (0..6).map(|_| backoff.next_delay()).max();
        assert!(longest >= Some(Duration::from_millis(8)));
        backoff.last = Instant::now() - Duration::from_millis(33);
        assert!(backoff.next_delay() <= Duration::from_millis(8));
    }
}
