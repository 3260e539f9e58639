//! Waiting for conditions.

use std::fmt::Debug;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How long a test waits for a condition: longer than any busy machine needs.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Repeats an attempt every 10 ms until it succeeds.
///
/// # Panics
/// When it does not succeed within a minute.
#[track_caller]
pub fn eventually<T: Debug>(
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let since = Instant::now();
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(_) if since.elapsed() < TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(reason) => panic!("not within a minute, at {caller}: {reason}"),
            }
        }
    }
}

/// The common value, or an error that shows both. For [`eventually`].
///
/// # Errors
/// When the values differ.
pub fn equal<T: PartialEq + Debug>(actual: T, expected: T) -> Result<T, String> {
    if actual == expected { Ok(actual) } else { Err(format!("{actual:?} is not {expected:?}")) }
}
