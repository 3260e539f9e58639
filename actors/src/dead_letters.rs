//! Dead letters: messages that could not be applied and wait for an administrator.

use serde_json::{Value, json};
use shop_persistence::dead_letters::{self, DeadLetter, DeadLetterCursor, DeadLetterId};
use shop_persistence::events::ReceivedEvent;
use shop_persistence::pages::PageRequest;
use shop_persistence::{Database, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::subscriptions::AnySubscription;
use crate::{Confirmation, Error, Reply, Result};

/// Messages of the dead-letters actor.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Stores messages that could not be applied.
    Store(Vec<DeadLetter>, Reply<()>),
    /// Lists dead letters, oldest first; all of them, or those of one queue.
    List(Option<String>, PageRequest<DeadLetterCursor>, Reply<Vec<DeadLetter>>),
    /// Finds a dead letter.
    Find(DeadLetterId, Reply<DeadLetter>),
    /// Applies the message again and deletes the dead letter.
    Redrive(DeadLetterId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
    /// Deletes the dead letter without applying it.
    Drop(DeadLetterId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
}

/// The actor that stores dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    session: Session,
    subscriptions: Vec<AnySubscription>,
}

impl DeadLetters {
    /// The dead letters of this database, from the queues of these subscriptions.
    pub fn new(database: &Database, subscriptions: Vec<AnySubscription>) -> DeadLetters {
        DeadLetters { session: database.session(), subscriptions }
    }

    async fn store(&mut self, letters: Vec<DeadLetter>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        dead_letters::insert(&mut tx, &letters).await?;
        Ok(tx.commit().await?)
    }

    async fn list(
        &mut self,
        queue: Option<String>,
        page: PageRequest<DeadLetterCursor>,
    ) -> Result<Vec<DeadLetter>> {
        Ok(dead_letters::list(self.session.connection().await?, queue.as_deref(), page).await?)
    }

    async fn find(&mut self, id: DeadLetterId) -> Result<DeadLetter> {
        Ok(dead_letters::find(self.session.connection().await?, id).await?)
    }

    /// Applies the message before the dead letter is deleted. A crash in between leaves a dead
    /// letter that was applied, which is harmless: actors apply each event once. A temporary
    /// failure changes nothing.
    async fn redrive(
        &mut self,
        id: DeadLetterId,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Confirmation>> {
        let subscriptions = self.subscriptions.clone();
        let redriven = change(&mut self.session, key, async |tx| {
            let letter = dead_letters::find(tx, id).await?;
            apply(&subscriptions, &letter).await.map_err(|error| match error {
                Error::Unavailable(_) | Error::Overloaded(_) => error,
                Error::Crashed(actor) => {
                    Error::Conflict(format!("the message crashed the actor {actor} again"))
                }
                error => Error::Conflict(error.to_string()),
            })?;
            dead_letters::delete(tx, id).await?; // another replica may have deleted it
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
        change(&mut self.session, key, async |tx| {
            if dead_letters::delete(tx, id).await? {
                Ok(Confirmation { message: "the dead letter is dropped" })
            } else {
                Err(Error::NotFound("dead letter"))
            }
        })
        .await
    }
}

impl Actor for DeadLetters {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Store(letters, reply) => respond(reply, self.store(letters).await),
            Msg::List(queue, page, reply) => respond(reply, self.list(queue, page).await),
            Msg::Find(id, reply) => respond(reply, self.find(id).await),
            Msg::Redrive(id, key, reply) => respond(reply, self.redrive(id, key).await),
            Msg::Drop(id, key, reply) => respond(reply, self.drop(id, key).await),
        }
    }
}

/// Applies the message of a dead letter to the actor that it was for.
async fn apply(subscriptions: &[AnySubscription], letter: &DeadLetter) -> Result<()> {
    let subscription = subscriptions.iter().find(|it| it.queue() == letter.queue);
    let subscription = subscription.ok_or_else(|| {
        Error::Conflict(format!("this node does not consume the queue {}", letter.queue))
    })?;
    let DeadLetter { event, version, payload, .. } = letter;
    let event = ReceivedEvent { name: event, version: *version, body: &payload.0 };
    let update = subscription.parse(&event).map_err(|why| Error::Conflict(why.to_string()))?;
    subscription.apply(&[&update]).await
}
