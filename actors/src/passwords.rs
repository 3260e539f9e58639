//! Password hashing with bcrypt, on threads of its own with a bounded queue: many concurrent logins slow
//! down logins only.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use shop_persistence::InvalidValue;
use shop_runtime::SpanContext;
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry, Phase};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{Error, Result};

/// bcrypt ignores further bytes (<https://www.usenix.org/legacy/events/usenix99/provos/provos.pdf>, 4).
const MAX_BYTES: usize = 72;

/// A valid new password: at least 8 characters and at most the 72 bytes that bcrypt uses.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Validates a new password.
    ///
    /// # Errors
    /// The rule that it violates.
    pub fn parse(text: String) -> Result<Password, InvalidValue> {
        if text.chars().count() < 8 {
            return Err(InvalidValue("must be at least 8 characters long".into()));
        }
        if text.len() > MAX_BYTES {
            return Err(InvalidValue("must be at most 72 bytes long in UTF-8".into()));
        }
        if text.contains('\0') {
            return Err(InvalidValue("must not contain U+0000".into()));
        }
        Ok(Password(text))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread pool that hashes.
#[derive(Debug, Clone)]
pub struct Passwords {
    jobs: Sender<Job>,
    cost: u32,
    actor_metrics: Arc<ActorMetrics>,
}

/// A syntactically valid hash that matches no password. Comparing with it takes as long as with a real
/// hash.
fn dummy_hash(cost: u32) -> String {
    let (salt, digest) = (".".repeat(22), ".".repeat(31));
    format!("$2b${cost:02}${salt}{digest}")
}

impl Passwords {
    /// Starts `threads` threads that hash with `cost` (4 to 31; each step doubles the time). At most
    /// `capacity` jobs wait or run. The pool's metrics are on this branch of the registry.
    pub fn start(
        branch: &ActorRegistry,
        threads: usize,
        cost: u32,
        capacity: usize,
    ) -> Result<Passwords> {
        let actor_metrics =
            branch.branch("passwords").actor_metrics(ActorKind::Pool, Some(capacity), threads);
        actor_metrics.enter(Phase::Running);
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for thread in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("bcrypt-{thread}"))
                .spawn(move || run_jobs(&queue))
                .map_err(|error| Error::Internal(error.into()))?;
        }
        Ok(Passwords { jobs, cost, actor_metrics })
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn hash(&self, password: Password) -> Result<String> {
        let cost = self.cost;
        self.run("Hash", move || {
            // `hash` truncates at 72 bytes, which a `Password` never exceeds. `non_truncating_hash` accepts
            // only 71, because it counts a terminating zero.
            bcrypt::hash(password.0, cost).map_err(|error| Error::Internal(error.into()))
        })
        .await?
    }

    /// Whether `hash` is a hash of `password`. It takes the same time for a wrong password and for a
    /// missing hash.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let cost = self.cost;
        self.run("Verify", move || {
            let comparable = password.len() <= MAX_BYTES && !password.contains('\0');
            let verified = match hash.filter(|_| comparable) {
                Some(hash) => bcrypt::verify(&password, &hash),
                None => bcrypt::verify("", &dummy_hash(cost)).map(|_| false),
            };
            verified.map_err(|error| Error::Internal(error.into()))
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, response) = oneshot::channel();
        let (guard, span) =
            (self.actor_metrics.enqueued(Instant::now(), None), SpanContext::current());
        if self.actor_metrics.is_full() {
            guard.reject();
            return Err(Error::Overloaded("password check".into()));
        }
        let job = move || {
            if reply.is_closed() {
                return guard.expire(); // the caller has timed out
            }
            let processing = guard.open(name, span, Instant::now());
            reply.send(job()).ok();
            processing.done();
        };
        let ended = || Error::Unavailable("the password threads have ended".into());
        self.jobs.send(Box::new(job)).map_err(|_| ended())?;
        response.await.map_err(|_| ended())
    }
}

/// Runs jobs until the sender is dropped.
fn run_jobs(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_8_characters_and_at_most_72_bytes() {
        for good in ["12345678", "пароль-1", &"x".repeat(72), &"ы".repeat(36)] {
            assert!(Password::parse(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "1234567", &"x".repeat(73), &"ы".repeat(37), "1234567\0"] {
            assert!(Password::parse(bad.into()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_correct_password_matches() {
        let passwords = Passwords::start(&ActorRegistry::new("test"), 1, 4, 8).unwrap();
        let hash = passwords.hash(Password::parse("correct horse".into()).unwrap()).await.unwrap();
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("a password of no user".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_password_does_not_match_its_own_prefix_or_extension() {
        let passwords = Passwords::start(&ActorRegistry::new("test"), 1, 4, 8).unwrap();
        let longest = "x".repeat(72);
        let hash = passwords.hash(Password::parse(longest.clone()).unwrap()).await.unwrap();
        assert!(passwords.verify(longest.clone(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("x".repeat(71), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(longest + "y", Some(hash)).await.unwrap());
    }
}
