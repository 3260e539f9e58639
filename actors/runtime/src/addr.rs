//! Addresses: how to send messages to an actor, or to the shards that divide its work.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ractor::{RpcReplyPort, concurrency};
use tokio::time::{Instant, timeout_at};

use crate::mailbox::{Mailbox, Message};
use crate::registry::{ActorKind, ActorRegistry};
use crate::{Error, ReplyError, Result};

/// Where an actor sends the reply to a message.
pub type Reply<T, E = Error> = RpcReplyPort<std::result::Result<T, E>>;

/// The address of an actor or of the shards that divide its work. It stays valid when an actor behind
/// it restarts: messages wait for the new one.
///
/// ```
/// # use shop_runtime::{Actor, ActorContext, ActorRegistry, Addr, Child, HandlerResult, Reply};
/// # use shop_runtime::{RestartPolicy, Root, respond};
/// # use std::time::Duration;
/// # #[derive(strum::IntoStaticStr)] enum Msg { Double(u64, Reply<u64>) }
/// # struct Doubler;
/// # impl Actor for Doubler {
/// #     type Msg = Msg;
/// #     async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
/// #         let Msg::Double(number, reply) = message;
/// #         respond(reply, Ok(2 * number))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> HandlerResult {
/// let registry = ActorRegistry::new("app");
/// let addr: Addr<Msg> = Addr::new(&registry, "doubler", 2, 64, Duration::from_secs(1));
/// let children = addr.mailboxes().iter().map(|mailbox| Child::actor(mailbox, || Doubler));
/// let root = Root::start(&registry, RestartPolicy::default(), children.collect()).await?;
///
/// // Messages with the same key go to the same shard, in order.
/// assert_eq!(addr.ask("key", |reply| Msg::Double(21, reply)).await?, 42);
/// root.stop().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Addr<M> {
    mailboxes: Arc<[Arc<Mailbox<M>>]>,
    hasher: RandomState,
    reply_timeout: Duration,
}

impl<M> Clone for Addr<M> {
    fn clone(&self) -> Self {
        let Addr { mailboxes, hasher, reply_timeout } = self;
        let (mailboxes, hasher) = (mailboxes.clone(), hasher.clone());
        Addr { mailboxes, hasher, reply_timeout: *reply_timeout }
    }
}

impl<M: Message> Addr<M> {
    /// An address with `shards` mailboxes (at least one), each for up to `capacity` waiting messages, at
    /// the paths `name/0`, `name/1`, … of the registry. An ask fails after `reply_timeout`.
    pub fn new(
        registry: &ActorRegistry,
        name: &'static str,
        shards: usize,
        capacity: usize,
        reply_timeout: Duration,
    ) -> Addr<M> {
        let mailbox = |shard| {
            let place = registry.branch(name).branch(&format!("{shard}"));
            Mailbox::new(name, place.actor_metrics(ActorKind::Actor, Some(capacity), 1))
        };
        let mailboxes = (0..shards.max(1)).map(mailbox).collect();
        Addr { mailboxes, hasher: RandomState::new(), reply_timeout }
    }

    /// The mailboxes, one for each shard.
    pub fn mailboxes(&self) -> &[Arc<Mailbox<M>>] {
        &self.mailboxes
    }

    /// Sends a message to the shard of `key` and waits for the reply. Messages with the same key are
    /// handled in the order in which they were sent.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the mailbox is full: nothing was done. [`Error::Unavailable`] if no
    /// reply came in time, [`Error::Crashed`] if the actor failed while it handled the message: whether
    /// the work was done is unknown.
    pub async fn ask<T: Send + 'static, E: ReplyError>(
        &self,
        key: impl Hash,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let shard = self.hasher.hash_one(key) as usize % self.mailboxes.len();
        self.ask_mailbox(&self.mailboxes[shard], message).await
    }

    /// Sends a message that any shard can handle: to the responsive shard with the fewest messages.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_any<T: Send + 'static, E: ReplyError>(
        &self,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        self.ask_mailbox(self.least_loaded(), message).await
    }

    /// Sends a message that shares a batch with others: to the first responsive shard with fewer than
    /// `batch_size` messages, so that a batch fills before the next shard is used. Messages that are
    /// sent like this have no order among themselves.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_batched<T: Send + 'static, E: ReplyError>(
        &self,
        batch_size: usize,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let has_room = |mailbox: &&Arc<Mailbox<M>>| {
            let actor_metrics = mailbox.actor_metrics();
            actor_metrics.is_responsive() && actor_metrics.depth() < batch_size
        };
        let mailbox = self.mailboxes.iter().find(has_room);
        self.ask_mailbox(mailbox.unwrap_or_else(|| self.least_loaded()), message).await
    }

    fn least_loaded(&self) -> &Arc<Mailbox<M>> {
        let responsive = self.mailboxes.iter().filter(|it| it.actor_metrics().is_responsive());
        responsive.min_by_key(|it| it.actor_metrics().depth()).unwrap_or(&self.mailboxes[0])
    }

    async fn ask_mailbox<T: Send + 'static, E: ReplyError>(
        &self,
        mailbox: &Mailbox<M>,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<T, E> {
        let now = Instant::now();
        let deadline = now + self.reply_timeout;
        let (reply, response) = concurrency::oneshot();
        mailbox.post(message(reply.into()), now, deadline)?;
        match timeout_at(deadline, response).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Crashed(mailbox.kind).into()),
            Err(_) => {
                let reason = format!("the actor {} did not reply in time", mailbox.kind);
                Err(Error::Unavailable(reason.into()).into())
            }
        }
    }
}
