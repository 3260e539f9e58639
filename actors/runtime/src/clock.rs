//! The date.

use jiff::Timestamp;

/// The date, as this machine has it. That clock jumps: it stands on tokens, on what people read, and in ids, and measures
/// nothing.
#[expect(clippy::disallowed_methods, reason = "the one place that reads that clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
