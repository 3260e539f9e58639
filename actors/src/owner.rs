//! What an owner is: state of its own, and messages that it handles one at a time.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use shop_persistence::Result;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::Reply;
use crate::addr::{Envelope, Mailbox};

/// How long an owner may be at a message that its asker no longer waits for: longer than the database lets a statement
/// run, so it is only ever met when the network hangs. Then a fresh owner has a fresh connection.
const OVERTIME: Duration = Duration::from_secs(12);

/// The end of handling a message. An error is a bug: it ends the owner.
pub type Handled = Result<(), ActorProcessingErr>;

/// Owns something, and does what it is asked about it, one message after the other.
pub trait Owner: Send + 'static {
    /// What it may be asked.
    type Msg: Send + 'static;

    /// Does what the message asks. An expected failure is an answer; an error ends this owner, and its
    /// supervisor starts a fresh one.
    fn handle(
        &mut self,
        me: &Me<Self::Msg>,
        message: Self::Msg,
    ) -> impl Future<Output = Handled> + Send;
}

/// Sends what the asker can act on. A bug is not an answer: it ends the owner.
pub fn answer<T>(reply: Reply<T>, outcome: Result<T>) -> Handled {
    match outcome {
        Err(error) if error.is_bug() => Err(error.into()),
        outcome => {
            reply.send(outcome).ok(); // the asker may have lost patience
            Ok(())
        }
    }
}

/// An owner's own end of its mailbox.
#[derive(Debug)]
pub struct Me<M> {
    mailbox: Arc<Mailbox<M>>,
    actor: ActorRef<Envelope<M>>,
}

impl<M: Send + 'static> Me<M> {
    /// Puts a message behind those that wait now.
    pub fn tell(&self, message: M) {
        // It can only fail when this owner ends, and then nobody is left to care.
        self.actor.send_message(self.mailbox.envelope(message, None)).ok();
    }

    /// Puts a message behind those that wait `after` some time.
    pub fn tell_after(&self, after: Duration, message: impl FnOnce() -> M + Send + 'static) {
        let mailbox = self.mailbox.clone();
        // Ends by itself with the actor.
        drop(self.actor.send_after(after, move || mailbox.envelope(message(), None)));
    }
}

/// Puts `owner` to work on `mailbox`, under `supervisor`.
pub async fn hire<O: Owner>(
    owner: O,
    mailbox: &Arc<Mailbox<O::Msg>>,
    supervisor: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let worker = Worker(PhantomData);
    let (actor, _) =
        Actor::spawn_linked(None, worker, (owner, mailbox.clone()), supervisor).await?;
    Ok(actor.get_cell())
}

/// The ractor actor that an owner is. What every owner does alike is done here: measuring, tracing, dropping what
/// nobody waits for any more.
struct Worker<O>(PhantomData<fn() -> O>);

impl<O: Owner> Actor for Worker<O> {
    type Msg = Envelope<O::Msg>;
    type State = (O, Me<O::Msg>);
    type Arguments = (O, Arc<Mailbox<O::Msg>>);

    async fn pre_start(
        &self,
        actor: ActorRef<Self::Msg>,
        (owner, mailbox): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        mailbox.belongs_to(actor.clone());
        Ok((owner, Me { mailbox, actor }))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        (owner, me): &mut Self::State,
    ) -> Handled {
        let (span, trace) = (envelope.span.clone(), envelope.trace);
        let limit = envelope.deadline.unwrap_or_else(Instant::now) + OVERTIME;
        let Some((message, _busy)) = envelope.open() else { return Ok(()) };
        let handling = owner.handle(me, message).instrument(span);
        let handling = async {
            match trace {
                Some(trace) => trace.scope(handling).await,
                None => handling.await,
            }
        };
        match timeout_at(limit, handling).await {
            Ok(handled) => handled,
            Err(_) => Err("it was at one message for too long".into()),
        }
    }
}
