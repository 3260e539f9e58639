//! Passwords and their bcrypt hashes, made and compared on threads of their own, so that a flood of logins
//! slows logins alone.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use shop_persistence::{Error, InvalidValue, Result};
use shop_runtime::SpanContext;
use tokio::sync::oneshot;
use tokio::time::Instant;

use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry, Phase};

/// bcrypt reads no further (<https://www.usenix.org/legacy/events/usenix99/provos/provos.pdf>, 4).
const MOST_BYTES: usize = 72;

/// A password that may be set: at least 8 characters, and at most the 72 bytes that bcrypt reads.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Reads a password.
    pub fn parse(text: String) -> Result<Password, InvalidValue> {
        if text.chars().count() < 8 {
            return Err(InvalidValue("must be at least 8 characters long".into()));
        }
        if text.len() > MOST_BYTES {
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

/// The threads that hash.
#[derive(Debug, Clone)]
pub struct Passwords {
    jobs: Sender<Job>,
    cost: u32,
    actor_metrics: Arc<ActorMetrics>,
}

/// Looks like a hash, and is none of any password: to compare with it takes as long as with a real one.
fn decoy(cost: u32) -> String {
    let (salt, digest) = (".".repeat(22), ".".repeat(31));
    format!("$2b${cost:02}${salt}{digest}")
}

impl Passwords {
    /// Starts `threads` that hash with `cost` (4 to 31: each step doubles the time); `capacity` jobs may wait. They are
    /// measured as a pool on this `branch` of the tree.
    pub fn start(
        branch: &ActorRegistry,
        threads: usize,
        cost: u32,
        capacity: usize,
    ) -> Result<Passwords> {
        let actor_metrics =
            branch.branch("passwords").actor_metrics(ActorKind::Pool, Some(capacity), threads);
        actor_metrics.enter(Phase::Running);
        let (jobs, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for thread in 0..threads.max(1) {
            let waiting = waiting.clone();
            std::thread::Builder::new()
                .name(format!("bcrypt-{thread}"))
                .spawn(move || work(&waiting))
                .map_err(|error| Error::Internal(error.into()))?;
        }
        Ok(Passwords { jobs, cost, actor_metrics })
    }

    /// The hash to keep of a password.
    pub async fn hash(&self, password: Password) -> Result<String> {
        let cost = self.cost;
        self.run("Hash", move || {
            // Nothing is cut: a `Password` fits. `non_truncating_hash` takes 71 bytes only, for it counts a closing zero.
            bcrypt::hash(password.0, cost).map_err(|error| Error::Internal(error.into()))
        })
        .await?
    }

    /// Whether `password` is the one that `hash` was made of. Takes the same time whatever the answer, and
    /// also when there is no hash to compare with.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let cost = self.cost;
        self.run("Verify", move || {
            let comparable = password.len() <= MOST_BYTES && !password.contains('\0');
            let verified = match hash.filter(|_| comparable) {
                Some(hash) => bcrypt::verify(&password, &hash),
                None => bcrypt::verify("", &decoy(cost)).map(|_| false),
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
        let (reply, answer) = oneshot::channel();
        let (guard, trace) =
            (self.actor_metrics.arrive(Instant::now(), None), SpanContext::current());
        if self.actor_metrics.is_full() {
            guard.reject();
            return Err(Error::Overloaded("password check".into()));
        }
        let job = move || {
            if reply.is_closed() {
                return guard.expire(); // the asker has lost patience
            }
            let handling = guard.open(name, trace, Instant::now());
            reply.send(job()).ok();
            handling.done();
        };
        let ended = || Error::Unavailable("the password check ended".into());
        self.jobs.send(Box::new(job)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}

/// Works off jobs until nobody is left to send one.
fn work(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
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
    async fn only_the_right_password_is_verified() {
        let passwords = Passwords::start(&ActorRegistry::new("test"), 1, 4, 8).unwrap();
        let hash = passwords.hash(Password::parse("correct horse".into()).unwrap()).await.unwrap();
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("nobody has this password".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_longer_password_is_not_the_one_it_begins_with() {
        let passwords = Passwords::start(&ActorRegistry::new("test"), 1, 4, 8).unwrap();
        let longest = "x".repeat(72);
        let hash = passwords.hash(Password::parse(longest.clone()).unwrap()).await.unwrap();
        assert!(passwords.verify(longest.clone(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("x".repeat(71), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(longest + "y", Some(hash)).await.unwrap());
    }
}
