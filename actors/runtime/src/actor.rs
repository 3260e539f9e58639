//! Actors: state and a handler that processes one message at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use serde_json::Value;
use tokio::time::Instant;

use crate::mailbox::{Mailbox, Message, Signal};
use crate::{Reply, ReplyError, TaskContext};

/// A failure of an actor. The text is logged and shown in the inspector, never sent to a caller.
pub type HandlerError = ractor::ActorProcessingErr;

/// The result of a handler. An error is a bug: it fails the actor.
pub type HandlerResult<T = ()> = Result<T, HandlerError>;

/// State and the handler of its messages.
///
/// ```
/// use shop_runtime::{Actor, ActorContext, HandlerResult, Reply, respond};
///
/// #[derive(strum::IntoStaticStr)]
/// enum Msg {
///     Add(u64, Reply<u64>),
/// }
///
/// struct Counter(u64);
///
/// impl Actor for Counter {
///     type Msg = Msg;
///
///     async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
///         match message {
///             Msg::Add(amount, reply) => {
///                 self.0 += amount;
///                 respond(reply, Ok(self.0))
///             }
///         }
///     }
/// }
/// ```
pub trait Actor: Send + 'static {
    /// The messages that it handles.
    type Msg: Message;

    /// Handles a message. Reply with an expected failure; an error fails this actor, and its supervisor
    /// starts a new one on the same mailbox.
    fn handle(
        &mut self,
        context: &ActorContext<Self::Msg>,
        message: Self::Msg,
    ) -> impl Future<Output = HandlerResult> + Send;

    /// Completes deferred work before the actor stops; its mailbox is empty. Returns the delay before
    /// the next call while work is left, `None` when it is complete.
    fn drain(
        &mut self,
        _: &ActorContext<Self::Msg>,
    ) -> impl Future<Output = HandlerResult<Option<Duration>>> + Send {
        std::future::ready(Ok(None))
    }

    /// A short view of its state for operators: numbers and names, no customer data.
    fn state(&self) -> Value {
        Value::Null
    }
}

/// Sends a reply. An internal error (a bug) is not sent: it is returned and fails the actor.
pub fn respond<T, E: ReplyError>(reply: Reply<T, E>, outcome: Result<T, E>) -> HandlerResult {
    match outcome {
        Err(error) if error.is_internal() => Err(error.into()),
        outcome => {
            reply.send(outcome).ok(); // the caller may have timed out
            Ok(())
        }
    }
}

/// How an actor sends messages to itself.
#[derive(Debug)]
pub struct ActorContext<M> {
    pub(crate) mailbox: Arc<Mailbox<M>>,
    pub(crate) actor: ActorRef<Signal<M>>,
}

impl<M: Message> ActorContext<M> {
    /// Enqueues a message to the actor itself, behind the messages that wait now. It ignores the
    /// mailbox's capacity and has no deadline.
    pub fn tell(&self, message: M) {
        let context = TaskContext::current();
        self.mailbox.enqueue(self.mailbox.envelope(message, Instant::now(), None, context));
    }

    /// Delivers a message to the actor itself after a delay. The timer ends with this actor: a
    /// restarted actor does not receive the message.
    pub fn tell_after(&self, delay: Duration, message: impl FnOnce() -> M + Send + 'static) {
        let (mailbox, context) = (self.mailbox.clone(), TaskContext::current());
        let timer =
            move || Signal::Timer(mailbox.envelope(message(), Instant::now(), None, context));
        drop(self.actor.send_after(delay, timer));
    }
}
