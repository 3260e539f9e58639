//! Requests that may be repeated: done once, and answered alike.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shop_persistence::idempotency::{self, Answer, Key};
use shop_persistence::{Database, Error, PgConnection, Result, Session};
use tokio_util::sync::CancellationToken;

use shop_runtime::{Backoff, Failpoint, HandlerResult, Service, registry::ActorMetrics};

/// A request that its caller may repeat, and how its answer looks when it is kept.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// What the caller calls it.
    pub key: Key,
    /// The status of its success.
    pub success: u16,
    /// The answer that a refusal is; none for what may go better next time, which is not kept.
    pub refusal: fn(&Error) -> Option<Answer>,
}

impl IdempotencyKey {
    /// The answer to keep, if this outcome is one.
    pub(crate) fn answer<T: Serialize>(&self, outcome: &Result<T>) -> Result<Option<Answer>> {
        match outcome {
            Ok(done) => {
                let body =
                    serde_json::to_vec(done).map_err(|error| Error::Internal(error.into()))?;
                Ok(Some(Answer { status: self.success, body }))
            }
            Err(error) => Ok((self.refusal)(error)),
        }
    }
}

/// What became of a request that may be a repetition.
#[derive(Debug)]
pub enum Replayable<T> {
    /// It is done.
    Now(T),
    /// It was answered before, like this.
    Before(Answer),
}

/// Makes a change, unless it is a repetition: then the answer is as it was. A refusal is an answer too.
pub(crate) async fn change<T: Serialize>(
    session: &mut Session,
    key: Option<IdempotencyKey>,
    change: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
) -> Result<Replayable<T>> {
    let mut tx = session.begin().failpoint("change: begin").await?;
    let Some(key) = key else {
        let done = change(&mut tx).failpoint("change: made").await?;
        tx.commit().failpoint("change: commit").await?;
        return Ok(Replayable::Now(done));
    };
    let mut claimed = idempotency::claim(&mut tx, &[&key.key]).await?;
    if let Some(answer) = claimed.remove(0)? {
        return Ok(Replayable::Before(answer));
    }
    idempotency::mark(&mut tx).await?;
    let outcome = change(&mut tx).failpoint("change: made under a key").await;
    let Some(answer) = key.answer(&outcome)? else { return outcome.map(Replayable::Now) };
    if outcome.is_err() {
        idempotency::back_to_mark(&mut tx).await?;
    }
    idempotency::keep(&mut tx, &[(&key.key, answer)]).await?;
    tx.commit().failpoint("change: commit with answer").await?;
    outcome.map(Replayable::Now)
}

/// At most so many answers are forgotten in one statement.
const BATCH: i64 = 1000;

/// How long between two statements, so that nobody waits for the sweeping.
const BREATHER: Duration = Duration::from_millis(50);

/// Forgets answers whose time is over.
#[derive(Debug, Clone)]
pub struct Sweeper {
    /// Where they are.
    pub database: Database,
    /// How long they are kept.
    pub retention: Duration,
}

impl Sweeper {
    /// How long until it looks again when nothing is left to forget: what is over is at most a sixtieth older than it may be.
    fn rest(&self) -> Duration {
        let rest = (self.retention / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
        rest.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl Service for Sweeper {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let mut wait = Duration::ZERO;
        let rest = |wait| stop.run_until_cancelled(tokio::time::sleep(wait));
        while rest(wait).failpoint("sweeper: rest").await.is_some() {
            let mut session = self.database.session(); // rarely needed: not held meanwhile
            let sweep = async |connection: &mut _| idempotency::sweep(connection, BATCH).await;
            let swept = actor_metrics.measure("Sweep", session.within(sweep));
            wait = match swept.failpoint("sweeper: swept").await {
                Ok(swept) if swept.cast_signed() < BATCH => self.rest(),
                Ok(_) => BREATHER,
                Err(error) if error.is_internal() => return Err(error.into()),
                Err(_) => backoff.pause(),
            };
        }
        Ok(())
    }
}
