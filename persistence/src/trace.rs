//! Which request caused this: the W3C trace context (<https://www.w3.org/TR/trace-context/>), carried from the
//! edge through messages into the outbox, and over the broker to the next node.

use std::fmt::{self, Display};
use std::future::Future;
use std::str::FromStr;

tokio::task_local! {
    static CURRENT: Trace;
}

/// A place in a trace: the trace, and the step in it that is the parent of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl Trace {
    /// Starts a trace.
    pub fn start() -> Trace {
        Trace { trace_id: rand::random_range(1..=u128::MAX), parent_id: some_id(), flags: 0 }
    }

    /// The next step of this trace.
    pub fn step(self) -> Trace {
        Trace { parent_id: some_id(), ..self }
    }

    /// The trace that the running task works for, if any.
    pub fn current() -> Option<Trace> {
        CURRENT.try_with(|trace| *trace).ok()
    }

    /// Runs `work` as part of this trace.
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }
}

/// Any but 0, which stands for none.
fn some_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// Shows it as the header `traceparent` does.
impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// Reads the header `traceparent`; a malformed one is as good as none.
impl FromStr for Trace {
    type Err = ();

    fn from_str(text: &str) -> Result<Trace, ()> {
        let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c) || c == b'-';
        let mut parts = text.split('-');
        let (Some(version), Some(trace), Some(parent), Some(flags)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let lengths = [version.len(), trace.len(), parent.len(), flags.len()];
        if lengths != [2, 32, 16, 2] || version == "ff" || !text.bytes().all(lower_hex) {
            return Err(());
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(drop)?;
        let parent_id = u64::from_str_radix(parent, 16).map_err(drop)?;
        let flags = u8::from_str_radix(flags, 16).map_err(drop)?;
        if trace_id == 0 || parent_id == 0 {
            return Err(());
        }
        Ok(Trace { trace_id, parent_id, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_reads_back_as_written() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(header.parse::<Trace>().unwrap().to_string(), header);
    }

    #[test]
    fn a_step_stays_in_its_trace() {
        let trace = Trace::start();
        assert_eq!(trace.step().to_string()[..35], trace.to_string()[..35]);
        assert_ne!(trace.step(), trace);
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        for header in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(header.parse::<Trace>(), Err(()), "{header}");
        }
    }
}
