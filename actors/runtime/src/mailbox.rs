//! Mailboxes: bounded queues that outlive the actor that empties them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::ActorRef;
use tokio::time::Instant;

use crate::registry::{ActorMetrics, ProcessingGuard, QueueGuard};
use crate::{Error, Result, TaskContext};

/// A message. Its name, which metrics and the inspector show, is that of the enum's variant: derive
/// `strum::IntoStaticStr`.
pub trait Message: Send + 'static {
    /// The name of this kind of message.
    fn name(&self) -> &'static str;
}

impl<M: Send + 'static> Message for M
where
    for<'m> &'m M: Into<&'static str>,
{
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// The queue of one actor. It stays, with its messages, when the actor is replaced by a new one.
pub struct Mailbox<M> {
    pub(crate) kind: &'static str,
    actor_metrics: Arc<ActorMetrics>,
    queue: Mutex<Queue<M>>,
}

/// The waiting messages, and the actor that handles them.
struct Queue<M> {
    waiting: VecDeque<Envelope<M>>,
    actor: Option<ActorRef<Signal<M>>>,
}

/// What the ractor actor receives. The mailbox holds the messages themselves.
#[derive(Debug)]
pub(crate) enum Signal<M> {
    /// One more message waits in the mailbox.
    Message,
    /// A timer of the actor itself has elapsed.
    Timer(Envelope<M>),
    /// The inspector requests the actor's state.
    ReportState,
}

impl<M: Message> Mailbox<M> {
    /// A mailbox of an actor of this kind.
    pub(crate) fn new(kind: &'static str, actor_metrics: Arc<ActorMetrics>) -> Arc<Mailbox<M>> {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), actor: None });
        let mailbox = Arc::new(Mailbox { kind, actor_metrics, queue });
        let weak = Arc::downgrade(&mailbox);
        mailbox.actor_metrics.on_state_request(move || {
            if let Some(mailbox) = weak.upgrade() {
                mailbox.queue().signal(Signal::ReportState);
            }
        });
        mailbox
    }

    /// The metrics of the mailbox and its actor.
    pub fn actor_metrics(&self) -> &Arc<ActorMetrics> {
        &self.actor_metrics
    }

    fn queue(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner) // no operation stops half-way
    }

    /// Makes `actor` the one that empties the mailbox, starting with the waiting messages.
    pub(crate) fn attach(&self, actor: ActorRef<Signal<M>>) {
        let mut queue = self.queue();
        queue.actor = Some(actor);
        for _ in 0..queue.waiting.len() {
            queue.signal(Signal::Message);
        }
        queue.signal(Signal::ReportState); // a state request may be pending
    }

    /// Enqueues a message from outside if the actor accepts messages and the mailbox has room.
    pub(crate) fn post(&self, message: M, now: Instant, deadline: Instant) -> Result<()> {
        let envelope = self.envelope(message, now, Some(deadline), TaskContext::current());
        if self.actor_metrics.is_closed() {
            envelope.guard.reject();
            let reason = format!("an administrator is draining the actor {}", self.kind);
            return Err(Error::Unavailable(reason.into()));
        }
        if self.actor_metrics.is_full() {
            envelope.guard.reject();
            return Err(Error::Overloaded(self.kind));
        }
        self.enqueue(envelope);
        Ok(())
    }

    /// Enqueues a message whatever the depth.
    pub(crate) fn enqueue(&self, envelope: Envelope<M>) {
        let mut queue = self.queue();
        queue.waiting.push_back(envelope);
        queue.signal(Signal::Message);
    }

    /// Removes the oldest message.
    pub(crate) fn take(&self) -> Option<Envelope<M>> {
        self.queue().waiting.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue().waiting.is_empty()
    }

    pub(crate) fn envelope(
        &self,
        message: M,
        now: Instant,
        deadline: Option<Instant>,
        context: Option<TaskContext>,
    ) -> Envelope<M> {
        let guard = self.actor_metrics.enqueued(now, deadline);
        Envelope { message, deadline, context, guard }
    }
}

impl<M: Message> Queue<M> {
    /// Signals the actor. An actor that has stopped ignores it; the next one starts with all messages.
    fn signal(&self, signal: Signal<M>) {
        if let Some(actor) = &self.actor {
            actor.send_message(signal).ok();
        }
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("metrics", &self.actor_metrics).finish_non_exhaustive()
    }
}

/// A message in a mailbox with its deadline, the context of its sender, and its metrics guard.
#[derive(Debug)]
pub(crate) struct Envelope<M> {
    message: M,
    pub(crate) deadline: Option<Instant>,
    pub(crate) context: Option<TaskContext>,
    guard: QueueGuard,
}

impl<M: Message> Envelope<M> {
    /// The message and the guard that measures its handler; `None` if the caller has timed out.
    pub(crate) fn open(self, now: Instant) -> Option<(M, ProcessingGuard)> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let span = self.context.map(|context| context.span);
        let processing = self.guard.open(self.message.name(), span, now);
        Some((self.message, processing))
    }
}
