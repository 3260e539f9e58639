//! Idempotency keys: a repeated request changes nothing and gets the first response.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shop_persistence::idempotency::{self, Key, StoredResponse};
use shop_persistence::{Database, PgConnection, Session};
use shop_runtime::{Backoff, Failpoint, HandlerResult, Service, registry::ActorMetrics};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// The idempotency key of a request, and how its response is stored.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// The key, with the caller and the request's fingerprint.
    pub key: Key,
    /// The HTTP status of a success.
    pub success: u16,
    /// The response of an error; `None` for a temporary error, which is not stored.
    pub refusal: fn(&Error) -> Option<StoredResponse>,
}

impl IdempotencyKey {
    /// The response to store, if the outcome is not temporary.
    pub(crate) fn answer<T: Serialize>(
        &self,
        outcome: &Result<T>,
    ) -> Result<Option<StoredResponse>> {
        match outcome {
            Ok(value) => {
                let body =
                    serde_json::to_vec(value).map_err(|error| Error::Internal(error.into()))?;
                Ok(Some(StoredResponse { status: self.success, body }))
            }
            Err(error) => Ok((self.refusal)(error)),
        }
    }
}

/// The outcome of a request that may be a repetition.
#[derive(Debug)]
pub enum Replayable<T> {
    /// The request was carried out now.
    New(T),
    /// The request was carried out before, with this response.
    Replay(StoredResponse),
}

/// Runs a change in a transaction of its own. With a key, the transaction first claims the key and last
/// stores the response, which may be an error; a repeated request gets the stored response.
pub(crate) async fn change<T: Serialize>(
    session: &mut Session,
    key: Option<IdempotencyKey>,
    change: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
) -> Result<Replayable<T>> {
    let mut tx = session.begin().failpoint("change: begin").await?;
    let Some(key) = key else {
        let value = change(&mut tx).failpoint("change: made").await?;
        tx.commit().failpoint("change: commit").await?;
        return Ok(Replayable::New(value));
    };
    let mut claimed = idempotency::claim(&mut tx, &[&key.key]).await?;
    if let Some(answer) = claimed.remove(0)? {
        return Ok(Replayable::Replay(answer));
    }
    idempotency::set_savepoint(&mut tx).await?;
    let outcome = change(&mut tx).failpoint("change: made under a key").await;
    let Some(answer) = key.answer(&outcome)? else { return outcome.map(Replayable::New) };
    if outcome.is_err() {
        idempotency::roll_back_to_savepoint(&mut tx).await?;
    }
    idempotency::store(&mut tx, &[(&key.key, answer)]).await?;
    tx.commit().failpoint("change: commit with answer").await?;
    outcome.map(Replayable::New)
}

/// The maximum number of responses deleted in one statement.
const SWEEP_BATCH: i64 = 1000;

/// The pause between two statements, so that sweeping does not delay requests.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// Deletes expired responses.
#[derive(Debug, Clone)]
pub struct Sweeper {
    /// The node's database.
    pub database: Database,
    /// How long responses are stored.
    pub retention: Duration,
}

impl Sweeper {
    /// The pause when nothing is left to delete: a response outlives its retention by at most a sixtieth.
    fn idle_pause(&self) -> Duration {
        let pause = (self.retention / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl Service for Sweeper {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let mut wait = Duration::ZERO;
        let pause = |wait| stop.run_until_cancelled(tokio::time::sleep(wait));
        while pause(wait).failpoint("sweeper: rest").await.is_some() {
            let mut session = self.database.session(); // rarely needed, so it holds no connection meanwhile
            let sweep =
                async |connection: &mut _| idempotency::sweep(connection, SWEEP_BATCH).await;
            let swept = actor_metrics.measure("Sweep", session.within(sweep));
            wait = match swept.failpoint("sweeper: swept").await {
                Ok(swept) if swept.cast_signed() < SWEEP_BATCH => self.idle_pause(),
                Ok(_) => SWEEP_PAUSE,
                Err(error @ shop_persistence::Error::Internal(_)) => return Err(error.into()),
                Err(_) => backoff.next_delay(),
            };
        }
        Ok(())
    }
}
