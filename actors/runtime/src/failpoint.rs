//! Failpoints: named awaits at which a test ends the process or fails the actor. The feature
//! `failpoints` compiles them in; without it `future.failpoint("…")` is `future`.

use std::future::{Future, IntoFuture};

/// Names an await.
pub trait Failpoint: IntoFuture + Sized {
    /// The same future with a failpoint after it. The name says which operation it belongs to and what
    /// it awaits: `"place: commit"`. A test can end the process or fail the actor as soon as the future
    /// has resolved. Failing before this future is the same as failing after the previous failpoint.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use shop_runtime::Failpoint;
    ///
    /// async fn commit() -> u32 { 7 }
    /// assert_eq!(commit().failpoint("place: commit").await, 7);
    /// # }
    /// ```
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

/// The armed failpoint of this process.
#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Mutex, PoisonError};

    /// What an armed failpoint does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum FailAction {
        /// Aborts the process without any cleanup, like `kill -9`.
        Process,
        /// Panics, which fails the actor.
        Actor,
    }

    static ANY: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<Option<(String, FailAction)>> = Mutex::new(None);

    /// Arms a failpoint. The first task that passes it triggers the action and disarms it.
    pub fn arm(point: &str, action: FailAction) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some((point.to_owned(), action));
        ANY.store(true, Relaxed);
    }

    /// Whether an armed failpoint has not been passed yet.
    pub fn is_armed() -> bool {
        ANY.load(Relaxed)
    }

    pub fn passed(point: &str) {
        if !ANY.load(Relaxed) {
            return;
        }
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, action)) = armed.take_if(|(armed, _)| armed == point) else { return };
        ANY.store(false, Relaxed);
        drop(armed);
        match action {
            FailAction::Process => std::process::abort(),
            FailAction::Actor => panic!("failpoint {point:?} was armed"),
        }
    }
}
