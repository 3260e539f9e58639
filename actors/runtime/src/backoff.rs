//! How long to wait before the next try.

use std::time::{Duration, Instant};

/// Waits that double from try to try, with jitter, up to a bound; after a success that lasted they start over.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    last: Instant,
}

impl Backoff {
    /// Waits from about `first` up to about `most`.
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, failures: 0, last: Instant::now() }
    }

    /// How long to wait after a failure now: between half and all of the doubled time.
    pub fn pause(&mut self) -> Duration {
        if self.last.elapsed() > 2 * self.most {
            self.failures = 0; // it went well for a while
        }
        let full = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let wait = full.mul_f64(rand::random_range(0.5..=1.0));
        self.last = Instant::now() + wait;
        wait
    }
}

impl Default for Backoff {
    /// For what is outside the process: 50 ms to 3 s.
    fn default() -> Backoff {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stable_for_long_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(8), Duration::from_millis(16));
        let longest = (0..6).map(|_| backoff.pause()).max();
        assert!(longest >= Some(Duration::from_millis(8)));
        backoff.last = Instant::now() - Duration::from_millis(33);
        assert!(backoff.pause() <= Duration::from_millis(8));
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full_ms in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.pause().as_millis();
            assert!((full_ms / 2..=full_ms).contains(&wait), "{wait} ms of {full_ms} ms");
        }
    }
}
