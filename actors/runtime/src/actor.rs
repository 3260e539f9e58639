//! What an owner is: state of its own, and messages that it handles one at a time.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::{ReplyError, Result, SpanKind, TaskContext};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::Reply;
use crate::addr::{Envelope, Mailbox, Message, Signal};

/// How long an owner may be at a message that its asker no longer waits for: longer than the database lets a statement
/// run, so it is only ever met when the network hangs. Then a fresh owner has a fresh connection.
const OVERTIME: Duration = Duration::from_secs(12);

/// The end of handling a message. An error is a bug: it ends the owner.
pub type HandlerResult = Result<(), ActorProcessingErr>;

/// Owns something, and does what it is asked about it, one message after the other.
pub trait Actor: Send + 'static {
    /// What it may be asked.
    type Msg: Message;

    /// Does what the message asks. An expected failure is an answer; an error ends this owner, and its
    /// supervisor starts a fresh one.
    fn handle(
        &mut self,
        me: &ActorContext<Self::Msg>,
        message: Self::Msg,
    ) -> impl Future<Output = HandlerResult> + Send;

    /// Does what it put off, when it is to end in good order and nothing waits for it any more. Says how long to wait
    /// before it tries what is still left; none when nothing is.
    fn drain(
        &mut self,
        _: &ActorContext<Self::Msg>,
    ) -> impl Future<Output = Result<Option<Duration>, ActorProcessingErr>> + Send {
        std::future::ready(Ok(None))
    }

    /// A short view of its state for whoever runs the shop: figures and names, and nothing of a customer's.
    fn state(&self) -> Value {
        Value::Null
    }
}

/// Sends a reply. An internal error (a bug) is not sent: it is returned, and fails the actor.
pub fn respond<T, E: ReplyError>(reply: Reply<T, E>, outcome: Result<T, E>) -> HandlerResult {
    match outcome {
        Err(error) if error.is_internal() => Err(error.into()),
        outcome => {
            reply.send(outcome).ok(); // the caller may have timed out
            Ok(())
        }
    }
}

/// An owner's own end of its mailbox.
#[derive(Debug)]
pub struct ActorContext<M> {
    mailbox: Arc<Mailbox<M>>,
    actor: ActorRef<Signal<M>>,
}

impl<M: Message> ActorContext<M> {
    /// Puts a message behind those that wait now.
    pub fn tell(&self, message: M) {
        let context = TaskContext::current();
        self.mailbox.put(self.mailbox.envelope(message, Instant::now(), None, context));
    }

    /// Puts a message behind those that wait `after` some time.
    pub fn tell_after(&self, after: Duration, message: impl FnOnce() -> M + Send + 'static) {
        let (mailbox, context) = (self.mailbox.clone(), TaskContext::current());
        let own = move || Signal::Own(mailbox.envelope(message(), Instant::now(), None, context));
        drop(self.actor.send_after(after, own)); // ends by itself with the actor
    }
}

/// Puts `owner` to work on `mailbox`, under `supervisor`.
pub async fn spawn_actor<O: Actor>(
    owner: O,
    mailbox: &Arc<Mailbox<O::Msg>>,
    supervisor: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let worker = Worker(PhantomData);
    let (actor, _) =
        ractor::Actor::spawn_linked(None, worker, (owner, mailbox.clone()), supervisor).await?;
    Ok(actor.get_cell())
}

/// The ractor actor that an owner is. What every owner does alike is done here: measuring, tracing, waiting while it is
/// paused, dropping what nobody waits for any more.
struct Worker<O>(PhantomData<fn() -> O>);

impl<O: Actor> ractor::Actor for Worker<O> {
    type Msg = Signal<O::Msg>;
    type State = (O, ActorContext<O::Msg>);
    type Arguments = (O, Arc<Mailbox<O::Msg>>);

    async fn pre_start(
        &self,
        actor: ActorRef<Self::Msg>,
        (owner, mailbox): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        mailbox.belongs_to(actor.clone());
        Ok((owner, ActorContext { mailbox, actor }))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        signal: Self::Msg,
        (owner, me): &mut Self::State,
    ) -> HandlerResult {
        let mailbox = me.mailbox.clone();
        let actor_metrics = mailbox.actor_metrics();
        if !matches!(signal, Signal::Look) {
            actor_metrics.unless_paused().await; // and only then takes it: whoever ends a paused actor loses nothing
        }
        let envelope = match signal {
            Signal::Look => None,
            Signal::Own(envelope) => Some(envelope),
            Signal::Message => mailbox.take(),
        };
        if let Some(envelope) = envelope {
            work(owner, me, envelope).await?;
        }
        actor_metrics.show(|| owner.state());
        Ok(())
    }

    /// In good order, that is: after what waits, and what the owner told itself meanwhile.
    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        (owner, me): &mut Self::State,
    ) -> HandlerResult {
        let mailbox = me.mailbox.clone();
        loop {
            while let Some(envelope) = mailbox.take() {
                work(owner, me, envelope).await?;
            }
            match owner.drain(me).await? {
                Some(wait) => tokio::time::sleep(wait).await,
                None if mailbox.is_empty() => return Ok(()),
                None => {}
            }
        }
    }
}

/// Has the owner handle a message, for as long as that may take.
async fn work<O: Actor>(
    owner: &mut O,
    me: &ActorContext<O::Msg>,
    envelope: Envelope<O::Msg>,
) -> HandlerResult {
    let mut context = envelope.context.clone();
    let (now, asked) = (Instant::now(), envelope.deadline.is_some());
    let limit = envelope.deadline.unwrap_or(now) + OVERTIME;
    let Some((message, measured)) = envelope.open(now) else { return Ok(()) };
    // What an owner tells itself is no step of its own: it goes on with what the owner was asked.
    let (kind, name) = (me.mailbox.kind, message.name());
    let step = |context: &mut TaskContext| {
        let step = context.trace.step(SpanKind::Internal, format_args!("{kind} {name}"));
        context.trace = step.trace();
        step
    };
    let step = context.as_mut().filter(|_| asked).map(step);
    // Whatever is put around a future holds it twice or more, before it is polled and while it is: without its own place on
    // the heap, every message had tens of kilobytes copied.
    let handling = Box::pin(owner.handle(me, message));
    let handling = async {
        match context {
            Some(context) => context.scope(handling).await,
            None => handling.await,
        }
    };
    let handled = match timeout_at(limit, handling).await {
        Ok(handled) => handled,
        Err(_) => Err("it was at one message for too long".into()),
    };
    if let Some(step) = step {
        step.settle(&handled);
    }
    handled?;
    measured.done();
    Ok(())
}
