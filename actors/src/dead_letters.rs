//! The owner of dead letters: messages that could not be applied and wait for a person.

use std::future::Future;

use serde_json::{Value, json};
use shop_persistence::dead_letters::{self, DeadLetter, DeadLetterCursor, DeadLetterId};
use shop_persistence::pages::PageRequest;
use shop_persistence::{Confirmation, Database, Error, Result, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::Reply;
use crate::idempotency::{IdempotencyKey, Replayable, change};

/// What the owner of dead letters may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// These could not be applied.
    Keep(Vec<DeadLetter>, Reply<()>),
    /// Them, the oldest first; all, or those of one queue.
    List(Option<String>, PageRequest<DeadLetterCursor>, Reply<Vec<DeadLetter>>),
    /// One of them.
    Find(DeadLetterId, Reply<DeadLetter>),
    /// A person thinks that it can be applied now.
    Redrive(DeadLetterId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
    /// A person has no use for it.
    Drop(DeadLetterId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
}

/// Tells a dead letter's message once more to whom it was for.
pub trait Redrive: Clone + Send + Sync + 'static {
    /// Returns when it is applied, or says why it is not.
    fn redrive(&self, letter: &DeadLetter) -> impl Future<Output = Result<()>> + Send;
}

/// Owns dead letters.
#[derive(Debug)]
pub struct DeadLetters<R> {
    session: Session,
    desks: R,
}

impl<R: Redrive> DeadLetters<R> {
    /// An owner of the dead letters in this database, which came from the queues of these desks.
    pub fn new(database: &Database, desks: R) -> DeadLetters<R> {
        DeadLetters { session: database.session(), desks }
    }

    async fn keep(&mut self, letters: Vec<DeadLetter>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        dead_letters::insert(&mut tx, &letters).await?;
        tx.commit().await
    }

    async fn list(
        &mut self,
        queue: Option<String>,
        part: PageRequest<DeadLetterCursor>,
    ) -> Result<Vec<DeadLetter>> {
        dead_letters::list(self.session.connection().await?, queue.as_deref(), part).await
    }

    async fn find(&mut self, id: DeadLetterId) -> Result<DeadLetter> {
        dead_letters::find(self.session.connection().await?, id).await
    }

    /// Applied first, forgotten then: whoever dies in between leaves a dead letter that was applied, and owners hear
    /// everything once. What fails for a passing reason stays as it was.
    async fn redrive(
        &mut self,
        id: DeadLetterId,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Confirmation>> {
        let desks = self.desks.clone();
        let redriven = change(&mut self.session, key, async |tx| {
            let letter = dead_letters::find(tx, id).await?;
            desks.redrive(&letter).await.map_err(|error| match error {
                Error::Unavailable(_) | Error::Overloaded(_) => error,
                Error::Crashed(owner) => Error::Conflict(format!(
                    "it ended the owner of {owner} when it was tried again"
                )),
                error => Error::Conflict(error.to_string()),
            })?;
            dead_letters::delete(tx, id).await?; // another replica may have been as fast
            Ok(Confirmation { message: "the message is applied" })
        })
        .await;
        if let Err(Error::Conflict(reason)) = &redriven {
            let mut tx = self.session.begin().await?;
            dead_letters::fail(&mut tx, id, reason).await?;
            tx.commit().await?;
        }
        redriven
    }

    async fn drop(
        &mut self,
        id: DeadLetterId,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Confirmation>> {
        change(&mut self.session, key, async |tx| match dead_letters::delete(tx, id).await? {
            true => Ok(Confirmation { message: "the dead letter is dropped" }),
            false => Err(Error::NotFound("dead letter")),
        })
        .await
    }
}

impl<R: Redrive> Actor for DeadLetters<R> {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Keep(letters, reply) => respond(reply, self.keep(letters).await),
            Msg::List(queue, part, reply) => respond(reply, self.list(queue, part).await),
            Msg::Find(id, reply) => respond(reply, self.find(id).await),
            Msg::Redrive(id, key, reply) => respond(reply, self.redrive(id, key).await),
            Msg::Drop(id, key, reply) => respond(reply, self.drop(id, key).await),
        }
    }
}
