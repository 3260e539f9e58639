//! Crash points: every await on the way of a change has a name, at which a test can end the process or the actor. Only tests
//! compile them (feature `failpoints`); in the shop that is shipped, `future.at("…")` is `future`.

use std::future::{Future, IntoFuture};

/// Names an await.
pub trait Failpoint: IntoFuture + Sized {
    /// The same future, at a point of this name: the path that it lies on, and what it does. A test may have the process or
    /// the actor die when it is done, before anything else is. (To die before it is to die after the await before.)
    fn failpoint(self, point: &'static str) -> impl Future<Output = Self::Output>;
}

#[cfg(not(feature = "failpoints"))]
impl<F: IntoFuture> Failpoint for F {
    #[inline(always)]
    fn failpoint(self, _: &'static str) -> impl Future<Output = F::Output> {
        self.into_future()
    }
}

#[cfg(feature = "failpoints")]
impl<F: IntoFuture> Failpoint for F {
    async fn failpoint(self, point: &'static str) -> F::Output {
        let output = self.await;
        armed::passed(point);
        output
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{FailAction, arm, is_armed};

/// Where the next death is.
#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Mutex, PoisonError};

    /// Who dies.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum FailAction {
        /// The process, and nothing is cleaned up, as by `kill -9`.
        Process,
        /// The actor: it panics.
        Actor,
    }

    static ANY: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<Option<(String, FailAction)>> = Mutex::new(None);

    /// Whoever passes this point next, dies.
    pub fn arm(point: &str, victim: FailAction) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some((point.to_owned(), victim));
        ANY.store(true, Relaxed);
    }

    /// Whether nobody has passed the armed point yet.
    pub fn is_armed() -> bool {
        ANY.load(Relaxed)
    }

    pub fn passed(point: &str) {
        if !ANY.load(Relaxed) {
            return;
        }
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, victim)) = armed.take_if(|(armed, _)| armed == point) else { return };
        ANY.store(false, Relaxed);
        drop(armed);
        match victim {
            FailAction::Process => std::process::abort(),
            FailAction::Actor => panic!("it was to die at the crash point {point:?}"),
        }
    }
}
