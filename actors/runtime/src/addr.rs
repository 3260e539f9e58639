//! How to reach an owner: an address that outlives the actor behind it, and mailboxes with a bound.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Error, ReplyError, Result, TaskContext};
use ractor::{ActorRef, RpcReplyPort, concurrency};
use tokio::time::{Instant, timeout_at};

use crate::registry::{ActorKind, ActorMetrics, ActorRegistry, ProcessingGuard, QueueGuard};

/// Where an owner answers.
pub type Reply<T, E = Error> = RpcReplyPort<std::result::Result<T, E>>;

/// What an owner may be asked. The name of a message is that of its variant.
pub trait Message: Send + 'static {
    /// What it is called where it is counted.
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

/// The address of an owner, or of several that share its work by key.
#[derive(Debug)]
pub struct Addr<M> {
    mailboxes: Arc<[Arc<Mailbox<M>>]>,
    hasher: RandomState,
    patience: Duration,
}

impl<M> Clone for Addr<M> {
    fn clone(&self) -> Self {
        let Addr { mailboxes, hasher, patience } = self;
        Addr { mailboxes: mailboxes.clone(), hasher: hasher.clone(), patience: *patience }
    }
}

impl<M: Message> Addr<M> {
    /// An address of `shares` owners of this name on a branch of the tree, each with a mailbox for `capacity` messages; an
    /// ask is answered within `patience` or not at all.
    pub fn new(
        branch: &ActorRegistry,
        name: &'static str,
        shares: usize,
        capacity: usize,
        patience: Duration,
    ) -> Addr<M> {
        let mailbox = |share| {
            let place = branch.branch(name).branch(&format!("{share}"));
            Mailbox::new(name, place.actor_metrics(ActorKind::Actor, Some(capacity), 1))
        };
        let mailboxes = (0..shares.max(1)).map(mailbox).collect();
        Addr { mailboxes, hasher: RandomState::new(), patience }
    }

    /// The mailboxes behind this address.
    pub fn mailboxes(&self) -> &[Arc<Mailbox<M>>] {
        &self.mailboxes
    }

    /// Asks the owner of `key`. Messages of one key are handled one after the other, in the order they were sent.
    ///
    /// [`Error::Overloaded`] when the mailbox is full: nothing was done. [`Error::Unavailable`] when no answer came in
    /// time, [`Error::Crashed`] when the owner ended while at it: whether it was done is unknown.
    pub async fn ask<T: Send + 'static, E: ReplyError>(
        &self,
        key: impl Hash,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let share = self.hasher.hash_one(key) as usize % self.mailboxes.len();
        self.ask_mailbox(&self.mailboxes[share], message).await
    }

    /// Asks where the others are: the first owner that is at hand and has fewer than `company` messages to handle. For
    /// messages that an owner handles together, and that need no order among themselves. Fails as [`ask`](Self::ask) does.
    pub async fn ask_batched<T: Send + 'static, E: ReplyError>(
        &self,
        company: usize,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let at_hand = || self.mailboxes.iter().filter(|mailbox| mailbox.actor_metrics.is_at_hand());
        let has_room = |mailbox: &&Arc<Mailbox<M>>| mailbox.actor_metrics.depth() < company;
        let depth = |mailbox: &&Arc<Mailbox<M>>| mailbox.actor_metrics.depth();
        let mailbox = at_hand().find(has_room).or_else(|| at_hand().min_by_key(depth));
        self.ask_mailbox(mailbox.unwrap_or(&self.mailboxes[0]), message).await
    }

    async fn ask_mailbox<T: Send + 'static, E: ReplyError>(
        &self,
        mailbox: &Mailbox<M>,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let now = Instant::now();
        let deadline = now + self.patience;
        let (reply, answer) = concurrency::oneshot();
        mailbox.post(message(reply.into()), now, deadline)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Crashed(mailbox.kind).into()),
            Err(_) => {
                let why = format!("the {} did not answer in time", mailbox.kind);
                Err(Error::Unavailable(why.into()).into())
            }
        }
    }
}

/// The queue in front of one owner. It stays, with all that waits in it, when the owner is replaced by a fresh one.
pub struct Mailbox<M> {
    pub(crate) kind: &'static str,
    actor_metrics: Arc<ActorMetrics>,
    queue: Mutex<Queue<M>>,
}

/// What waits, and for whom.
struct Queue<M> {
    waiting: VecDeque<Envelope<M>>,
    owner: Option<ActorRef<Signal<M>>>,
}

/// What an owner's actor is told: the mailbox holds the messages themselves.
#[derive(Debug)]
pub(crate) enum Signal<M> {
    /// One more message waits.
    Message,
    /// The owner's own message to itself, later.
    Own(Envelope<M>),
    /// Somebody wants to see the owner's state.
    Look,
}

impl<M: Message> Mailbox<M> {
    fn new(kind: &'static str, actor_metrics: Arc<ActorMetrics>) -> Arc<Mailbox<M>> {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), owner: None });
        let mailbox = Arc::new(Mailbox { kind, actor_metrics, queue });
        let looked_at = Arc::downgrade(&mailbox);
        mailbox.actor_metrics.on_state_request(move || {
            let mailbox = looked_at.upgrade();
            mailbox.iter().for_each(|mailbox| mailbox.queue().tell(Signal::Look));
        });
        mailbox
    }

    /// What is measured of it and of its owner.
    pub fn actor_metrics(&self) -> &Arc<ActorMetrics> {
        &self.actor_metrics
    }

    fn queue(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner) // nothing in there breaks half way
    }

    /// From now on this actor empties the mailbox, beginning with what waits already.
    pub(crate) fn belongs_to(&self, owner: ActorRef<Signal<M>>) {
        let mut queue = self.queue();
        queue.owner = Some(owner);
        for _ in 0..queue.waiting.len() {
            queue.tell(Signal::Message);
        }
        queue.tell(Signal::Look); // somebody may wait to see it
    }

    /// Puts a message from outside in, if there is room for it.
    fn post(&self, message: M, now: Instant, deadline: Instant) -> Result<()> {
        let envelope = self.envelope(message, now, Some(deadline), TaskContext::current());
        if self.actor_metrics.is_closed() {
            envelope.guard.reject();
            let why =
                format!("the {} takes nothing new: an administrator has it drained", self.kind);
            return Err(Error::Unavailable(why.into()));
        }
        if self.actor_metrics.is_full() {
            envelope.guard.reject();
            return Err(Error::Overloaded(self.kind));
        }
        self.put(envelope);
        Ok(())
    }

    /// Puts a message behind those that wait.
    pub(crate) fn put(&self, envelope: Envelope<M>) {
        let mut queue = self.queue();
        queue.waiting.push_back(envelope);
        queue.tell(Signal::Message);
    }

    /// The message that has waited longest.
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
        let guard = self.actor_metrics.arrive(now, deadline);
        Envelope { message, deadline, context, guard }
    }
}

impl<M: Message> Queue<M> {
    /// An actor that has ended hears nothing; the next one begins with all that waits.
    fn tell(&self, signal: Signal<M>) {
        if let Some(owner) = &self.owner {
            owner.send_message(signal).ok();
        }
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("probe", &self.actor_metrics).finish_non_exhaustive()
    }
}

/// A message on its way, with what its handling must know about its asker.
#[derive(Debug)]
pub(crate) struct Envelope<M> {
    message: M,
    pub(crate) deadline: Option<Instant>,
    pub(crate) context: Option<TaskContext>,
    guard: QueueGuard,
}

impl<M: Message> Envelope<M> {
    /// The message, unless its asker has given up; and the measure of its handling.
    pub(crate) fn open(self, now: Instant) -> Option<(M, ProcessingGuard)> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let trace = self.context.map(|context| context.trace);
        let handling = self.guard.open(self.message.name(), trace, now);
        Some((self.message, handling))
    }
}
