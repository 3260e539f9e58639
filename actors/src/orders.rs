//! The owner of orders, and of what this node knows about products for sale.

use std::time::Duration;

use shop_persistence::orders::{self, Item, ItemId, NewOrder, Order, OrderId, Refusal};
use shop_persistence::stock::{self, News};
use shop_persistence::{Database, Error, Result, Session};
use tokio::time::Instant;

use crate::{Caller, Handled, Me, Owner, Reply, answer};

/// At most so many orders share a transaction.
const MOST_IN_A_BATCH: usize = 128;

/// How long an order waits for the news of a user or product that it names: whoever just signed up, or
/// just added a product, may be faster than the event.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it looks for that news meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// At most so many orders wait for news.
const MOST_THAT_WAIT: usize = 1024;

/// What the owner of orders may be asked.
#[derive(Debug)]
pub enum Msg {
    /// A customer orders.
    Place(NewOrder, Caller, Reply<Order>),
    /// What was ordered?
    Find(OrderId, Caller, Reply<Order>),
    /// A customer wants more or less of an item.
    SetQuantity(OrderId, ItemId, i64, Caller, Reply<Item>),
    /// The catalog has products to sell.
    Offer(Vec<News>, Reply<()>),
    /// Places what has gathered: the owner's own message to itself, behind the orders in the mailbox.
    Flush,
    /// Tries again what waits for news: the owner's own message to itself.
    LookAgain,
}

/// Owns orders. Those that wait in the mailbox together are placed in one transaction, each decided by itself
/// in the order they came: an idle owner places a batch of one, a busy one's batches grow by themselves.
#[derive(Debug)]
pub struct Orders {
    session: Session,
    pending: Vec<Pending>,
    /// Those that name somebody or something not heard of yet.
    waiting: Vec<Pending>,
    /// Whether `Flush` stands in the mailbox already.
    flush_is_due: bool,
}

/// An order on its way.
#[derive(Debug)]
struct Pending {
    new: NewOrder,
    caller: Caller,
    since: Instant,
    reply: Reply<Order>,
}

impl Orders {
    /// An owner of the orders in this database.
    pub fn new(database: &Database) -> Orders {
        let session = database.session();
        Orders { session, pending: vec![], waiting: vec![], flush_is_due: false }
    }

    async fn place(
        &mut self,
        me: &Me<Msg>,
        new: NewOrder,
        caller: Caller,
        reply: Reply<Order>,
    ) -> Handled {
        let allowed = "an order is placed for oneself; only an administrator may name another user";
        if let Err(error) = caller.must_be(new.user_id(), allowed) {
            return answer(reply, Err(error));
        }
        if !self.flush_is_due {
            self.flush_is_due = true;
            me.tell(Msg::Flush);
        }
        self.pending.push(Pending { new, caller, since: Instant::now(), reply });
        match self.pending.len() < MOST_IN_A_BATCH {
            true => Ok(()),
            false => self.flush(me).await,
        }
    }

    async fn flush(&mut self, me: &Me<Msg>) -> Handled {
        self.flush_is_due = false;
        let pending = std::mem::take(&mut self.pending);
        self.place_batch(me, pending).await
    }

    async fn look_again(&mut self, me: &Me<Msg>) -> Handled {
        let mut waiting = std::mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let batch = waiting.drain(..waiting.len().min(MOST_IN_A_BATCH)).collect();
            self.place_batch(me, batch).await?;
        }
        Ok(())
    }

    async fn place_batch(&mut self, me: &Me<Msg>, pending: Vec<Pending>) -> Handled {
        if pending.is_empty() {
            return Ok(());
        }
        let placed = match self.place_all(&pending).await {
            Err(error) if error.is_bug() => return Err(error.into()),
            Err(error) => {
                let why = error.to_string();
                let refuse = || Err(Error::Away(why.clone().into()));
                return pending.into_iter().try_for_each(|order| answer(order.reply, refuse()));
            }
            Ok(placed) => placed,
        };
        for (order, placed) in pending.into_iter().zip(placed) {
            match placed {
                Ok(placed) => answer(order.reply, Ok(placed))?,
                Err(Refusal::Final(error)) => answer(order.reply, Err(error))?,
                Err(Refusal::Unheard(_)) if self.may_wait(&order) => {
                    if self.waiting.is_empty() {
                        me.tell_after(LOOK_AGAIN, || Msg::LookAgain);
                    }
                    self.waiting.push(order);
                }
                Err(Refusal::Unheard(rules)) => {
                    let names_caller = order.new.user_id() == order.caller.id
                        && rules.iter().any(|rule| rule.field == "user_id");
                    let error = match names_caller {
                        true => {
                            Error::Away("the news of your account has not arrived here yet".into())
                        }
                        false => Error::Broken(rules),
                    };
                    answer(order.reply, Err(error))?;
                }
            }
        }
        Ok(())
    }

    /// Whether there is patience left, and room.
    fn may_wait(&self, order: &Pending) -> bool {
        order.since.elapsed() < PATIENCE && self.waiting.len() < MOST_THAT_WAIT
    }

    async fn place_all(&mut self, pending: &[Pending]) -> Result<Vec<Result<Order, Refusal>>> {
        let new: Vec<_> = pending.iter().map(|order| &order.new).collect();
        let mut tx = self.session.begin().await?;
        let placed = orders::place(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(placed)
    }

    async fn find(&mut self, id: OrderId, caller: Caller) -> Result<Order> {
        let order = orders::find(self.session.connection().await?, id).await?;
        caller.must_be(order.user_id, "this order is somebody else's")?;
        Ok(order)
    }

    async fn set_quantity(
        &mut self,
        id: OrderId,
        item: ItemId,
        quantity: i64,
        caller: Caller,
    ) -> Result<Item> {
        let mut tx = self.session.begin().await?;
        let owner = orders::lock(&mut tx, id).await?;
        caller.must_be(owner, "this order is somebody else's")?;
        let item = orders::set_quantity(&mut tx, id, item, quantity).await?;
        tx.commit().await?;
        Ok(item)
    }

    async fn offer(&mut self, news: Vec<News>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        stock::offer(&mut tx, &news).await?;
        tx.commit().await
    }
}

impl Owner for Orders {
    type Msg = Msg;

    async fn handle(&mut self, me: &Me<Msg>, message: Msg) -> Handled {
        match message {
            Msg::Place(new, caller, reply) => self.place(me, new, caller, reply).await,
            Msg::Find(id, caller, reply) => answer(reply, self.find(id, caller).await),
            Msg::SetQuantity(id, item, quantity, caller, reply) => {
                answer(reply, self.set_quantity(id, item, quantity, caller).await)
            }
            Msg::Offer(news, reply) => answer(reply, self.offer(news).await),
            Msg::Flush => self.flush(me).await,
            Msg::LookAgain => self.look_again(me).await,
        }
    }
}
