//! The wall clock.

use jiff::Timestamp;

/// The current date and time of this machine. The wall clock can jump: use it in tokens, ids and what
/// people read. Measure durations with [`std::time::Instant`].
#[expect(clippy::disallowed_methods, reason = "the only place that reads the wall clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
