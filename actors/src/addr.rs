//! How to reach an owner: an address that outlives the actor behind it, and mailboxes with a bound.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ractor::{ActorRef, MessagingErr, RpcReplyPort, concurrency};
use shop_persistence::{Error, Result, Trace};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

/// Where an owner answers.
pub type Reply<T> = RpcReplyPort<Result<T>>;

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

impl<M: Send + 'static> Addr<M> {
    /// An address of `shares` owners, each with a mailbox for `capacity` messages; an ask is answered
    /// within `patience` or not at all.
    pub fn new(name: &'static str, shares: usize, capacity: usize, patience: Duration) -> Addr<M> {
        let mailbox = |share| Arc::new(Mailbox::new(format!("{name}/{share}"), name, capacity));
        let mailboxes = (0..shares.max(1)).map(mailbox).collect();
        Addr { mailboxes, hasher: RandomState::new(), patience }
    }

    /// The mailboxes behind this address.
    pub fn mailboxes(&self) -> &[Arc<Mailbox<M>>] {
        &self.mailboxes
    }

    /// The figures of all its mailboxes now.
    pub fn figures(&self) -> Vec<Figures> {
        self.mailboxes.iter().map(|mailbox| mailbox.figures()).collect()
    }

    /// Asks the owner of `key`. Messages of one key are handled one after the other, in the order they were sent.
    ///
    /// [`Error::Overloaded`] when the mailbox is full: nothing was done. [`Error::Away`] when no answer came in
    /// time, [`Error::Crashed`] when the owner ended while at it: whether it was done is unknown.
    pub async fn ask<T: Send + 'static>(
        &self,
        key: impl Hash,
        message: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T> {
        let share = self.hasher.hash_one(key) as usize % self.mailboxes.len();
        let mailbox = &self.mailboxes[share];
        let deadline = Instant::now() + self.patience;
        let (reply, answer) = concurrency::oneshot();
        let envelope = mailbox.seal(message(reply.into()), deadline)?;
        let asked = async {
            mailbox.deliver(envelope).await;
            answer.await
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Crashed(mailbox.kind)),
            Err(_) => {
                Err(Error::Away(format!("the {} did not answer in time", mailbox.kind).into()))
            }
        }
    }
}

/// The queue in front of one owner. It stays when the owner is replaced by a fresh one.
#[derive(Debug)]
pub struct Mailbox<M> {
    name: String,
    kind: &'static str,
    capacity: usize,
    owner: watch::Sender<Option<ActorRef<Envelope<M>>>>,
    gauges: Arc<Gauges>,
}

/// What is counted about a mailbox.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    depth: AtomicUsize,
    handled: AtomicU64,
    rejected: AtomicU64,
    expired: AtomicU64,
    busy_micros: AtomicU64,
}

/// A mailbox's figures at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Whose mailbox, such as `orders/2`.
    pub name: String,
    /// Messages that wait or are being handled.
    pub depth: usize,
    /// At most so many wait.
    pub capacity: usize,
    /// Messages handled since the start.
    pub handled: u64,
    /// Asks that were refused because the mailbox was full.
    pub rejected: u64,
    /// Messages dropped unhandled because their asker had given up.
    pub expired: u64,
    /// Time spent handling messages.
    pub busy: Duration,
}

impl<M: Send + 'static> Mailbox<M> {
    fn new(name: String, kind: &'static str, capacity: usize) -> Mailbox<M> {
        let gauges = Arc::default();
        Mailbox { name, kind, capacity, owner: watch::Sender::new(None), gauges }
    }

    /// Whose mailbox, such as `orders/2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This mailbox's figures now.
    pub fn figures(&self) -> Figures {
        Figures {
            name: self.name.clone(),
            depth: self.gauges.depth.load(Relaxed),
            capacity: self.capacity,
            handled: self.gauges.handled.load(Relaxed),
            rejected: self.gauges.rejected.load(Relaxed),
            expired: self.gauges.expired.load(Relaxed),
            busy: Duration::from_micros(self.gauges.busy_micros.load(Relaxed)),
        }
    }

    /// From now on this actor empties the mailbox.
    pub(crate) fn belongs_to(&self, owner: ActorRef<Envelope<M>>) {
        self.owner.send_replace(Some(owner));
    }

    /// An envelope for a message from outside, if there is room for it.
    fn seal(&self, message: M, deadline: Instant) -> Result<Envelope<M>> {
        let envelope = self.envelope(message, Some(deadline));
        if self.gauges.depth.load(Relaxed) > self.capacity {
            self.gauges.rejected.fetch_add(1, Relaxed);
            return Err(Error::Overloaded(self.kind.into()));
        }
        Ok(envelope)
    }

    /// An envelope for a message that must not be refused: the owner's own.
    pub(crate) fn envelope(&self, message: M, deadline: Option<Instant>) -> Envelope<M> {
        self.gauges.depth.fetch_add(1, Relaxed);
        let ticket = Ticket(self.gauges.clone());
        Envelope { message, deadline, span: Span::current(), trace: Trace::current(), ticket }
    }

    /// Hands the envelope to the owner; while there is none, waits for the next.
    async fn deliver(&self, envelope: Envelope<M>) {
        let Err(mut envelope) = self.hand_over(envelope) else { return };
        let mut owner = self.owner.subscribe();
        loop {
            match self.hand_over(envelope) {
                Ok(()) => return,
                Err(back) => envelope = back,
            }
            if owner.changed().await.is_err() {
                return;
            }
        }
    }

    fn hand_over(&self, envelope: Envelope<M>) -> Result<(), Envelope<M>> {
        let owner = self.owner.borrow();
        let Some(owner) = owner.as_ref() else { return Err(envelope) };
        match owner.send_message(envelope) {
            Err(MessagingErr::SendErr(envelope)) => Err(envelope),
            _ => Ok(()),
        }
    }
}

/// A message on its way, with what its handling must know about its asker.
#[derive(Debug)]
pub(crate) struct Envelope<M> {
    message: M,
    pub(crate) deadline: Option<Instant>,
    pub(crate) span: Span,
    pub(crate) trace: Option<Trace>,
    ticket: Ticket,
}

impl<M> Envelope<M> {
    /// The message, unless its asker has given up; and the measure of its handling.
    pub(crate) fn open(self) -> Option<(M, Busy)> {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.ticket.0.expired.fetch_add(1, Relaxed);
            return None;
        }
        Some((self.message, Busy { since: Instant::now(), ticket: self.ticket }))
    }
}

/// A place in a mailbox. Whatever becomes of the message, dropping it gives the place back.
#[derive(Debug)]
struct Ticket(Arc<Gauges>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Relaxed);
    }
}

/// Measures the handling of a message for as long as it lives.
#[derive(Debug)]
pub(crate) struct Busy {
    since: Instant,
    ticket: Ticket,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Ticket(gauges) = &self.ticket;
        gauges.handled.fetch_add(1, Relaxed);
        gauges.busy_micros.fetch_add(self.since.elapsed().as_micros() as u64, Relaxed);
    }
}
