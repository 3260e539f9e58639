//! The owner of orders, and of what this node knows about products for sale.

use std::collections::HashSet;
use std::time::Duration;

use ractor::ActorProcessingErr;
use serde_json::{Value, json};
use shop_persistence::orders::{self, IdPool, Item, ItemId, NewOrder, Order, OrderId, Refusal};
use shop_persistence::stock::{self, Movement, ProductUpdate};
use shop_persistence::{Database, Error, FieldError, PgConnection, Result, Session, idempotency};
use shop_runtime::{
    Actor, ActorContext, Failpoint, HandlerResult, Span, SpanContext, SpanKind, respond,
};
use strum::IntoStaticStr;
use tokio::time::Instant;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::{Caller, Reply};

/// At most so many orders share a transaction.
pub const MOST_IN_A_BATCH: usize = 128;

/// How long the first order of a batch waits for as many others as there were in the last one. Clients that wait for their
/// answers order again when they have them, and each transaction costs as much as many orders: so they had better share one.
const GATHERING: Duration = Duration::from_millis(1);

/// For more company than this no order waits: the transaction's own price is little among so many.
const ENOUGH: usize = 32;

/// How long an order waits for the news of a user or product that it names: whoever just signed up, or
/// just added a product, may be faster than the event.
const PATIENCE: Duration = Duration::from_secs(1);

/// It looks for that news as soon as this, and then whenever it has waited half as long again, but at least so often: most
/// news is on its way already.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// At most so many orders wait for news.
const MOST_THAT_WAIT: usize = 1024;

/// What the owner of orders may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// A customer orders.
    Place(NewOrder, Caller, Option<IdempotencyKey>, Reply<Replayable<Order>>),
    /// What was ordered?
    Find(OrderId, Caller, Reply<Order>),
    /// A customer wants more or less of an item.
    SetQuantity(OrderId, ItemId, i64, Caller, Option<IdempotencyKey>, Reply<Replayable<Item>>),
    /// The catalog has products to sell.
    Offer(Vec<ProductUpdate>, Reply<()>),
    /// The catalog remembers these sales; says how many this node did not.
    TakeOver(Vec<Movement>, Reply<i64>),
    /// Enough have gathered for this batch, or it waits for no more: the owner's own message to itself.
    Gathered(u64),
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
    /// Numbers for the next orders.
    id_pool: IdPool,
    /// How many batches there were.
    batches: u64,
    /// How many orders the last one had.
    company: usize,
}

/// An order on its way.
#[derive(Debug)]
struct Pending {
    new: NewOrder,
    caller: Caller,
    key: Option<IdempotencyKey>,
    since: Instant,
    /// Whose order it is, among those of its batch.
    trace: Option<SpanContext>,
    reply: Reply<Replayable<Order>>,
}

/// What becomes of an order.
#[derive(Debug)]
enum Outcome {
    /// It is answered.
    Answered(Result<Replayable<Order>>),
    /// It waits for the news of somebody or something.
    Waits,
    /// It comes again in the next batch, behind the one of the same key in this one.
    Follows,
}

impl Orders {
    /// An owner of the orders in this database.
    pub fn new(database: &Database) -> Orders {
        Orders {
            session: database.session(),
            pending: vec![],
            waiting: vec![],
            flush_is_due: false,
            id_pool: IdPool::default(),
            batches: 0,
            company: 0,
        }
    }

    async fn place(
        &mut self,
        ctx: &ActorContext<Msg>,
        new: NewOrder,
        caller: Caller,
        key: Option<IdempotencyKey>,
        reply: Reply<Replayable<Order>>,
    ) -> HandlerResult {
        let allowed = "an order is placed for oneself; only an administrator may name another user";
        if let Err(error) = caller.must_be(new.user_id(), allowed) {
            return respond(reply, Err(error));
        }
        let (since, trace) = (Instant::now(), SpanContext::current());
        self.pending.push(Pending { new, caller, key, since, trace, reply });
        if self.pending.len() == 1 {
            // While others gather. If it fails, so will the transaction itself, which says so.
            self.session.begin_early().failpoint("place: begin ahead").await.ok();
        }
        match self.pending.len() {
            MOST_IN_A_BATCH => self.flush(ctx).await?,
            gathered if gathered >= self.company.min(ENOUGH) => self.see_to_flush(ctx),
            1 => {
                let batch = self.batches;
                ctx.tell_after(GATHERING, move || Msg::Gathered(batch));
            }
            _ => {}
        }
        Ok(())
    }

    fn gathered(&mut self, ctx: &ActorContext<Msg>, batch: u64) {
        if batch == self.batches {
            self.see_to_flush(ctx);
        }
    }

    fn see_to_flush(&mut self, ctx: &ActorContext<Msg>) {
        if !self.flush_is_due {
            self.flush_is_due = true;
            ctx.tell(Msg::Flush);
        }
    }

    async fn flush(&mut self, ctx: &ActorContext<Msg>) -> HandlerResult {
        self.flush_is_due = false;
        let pending = std::mem::take(&mut self.pending);
        self.batches += 1;
        self.company = pending.len();
        self.place_batch(ctx, pending).await
    }

    async fn look_again(&mut self, ctx: &ActorContext<Msg>) -> HandlerResult {
        let mut waiting = std::mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let batch = waiting.drain(..waiting.len().min(MOST_IN_A_BATCH)).collect();
            self.place_batch(ctx, batch).await?;
        }
        Ok(())
    }

    async fn place_batch(
        &mut self,
        ctx: &ActorContext<Msg>,
        pending: Vec<Pending>,
    ) -> HandlerResult {
        if pending.is_empty() {
            return Ok(());
        }
        let step = step(&pending);
        let placing = Box::pin(self.place_all(&pending)); // large, and three messages lead here
        let placed = step.trace().scope(placing).failpoint("place: batch").await;
        step.settle(&placed);
        let fates = match placed {
            Err(error) if error.is_internal() => return Err(error.into()),
            Err(error) => {
                let why = error.to_string();
                let refuse = || Err(Error::Unavailable(why.clone().into()));
                return pending.into_iter().try_for_each(|order| respond(order.reply, refuse()));
            }
            Ok(fates) => fates,
        };
        for (order, fate) in pending.into_iter().zip(fates) {
            match fate {
                Outcome::Answered(outcome) => respond(order.reply, outcome)?,
                Outcome::Waits => {
                    if self.waiting.is_empty() {
                        ctx.tell_after(order.looks_again(), || Msg::LookAgain);
                    }
                    self.waiting.push(order);
                }
                Outcome::Follows => {
                    self.pending.push(order);
                    self.see_to_flush(ctx);
                }
            }
        }
        Ok(())
    }

    /// Places what can be, and keeps the answers to those that may be repeated, in one transaction.
    async fn place_all(&mut self, pending: &[Pending]) -> Result<Vec<Outcome>> {
        let room = MOST_THAT_WAIT.saturating_sub(self.waiting.len());
        let mut tx = self.session.begin().failpoint("place: begin").await?;
        let mut fates = claim(&mut tx, pending).await?;
        let open = || pending.iter().zip(&fates).filter(|(_, fate)| fate.is_none());
        let new: Vec<_> = open().map(|(order, _)| (&order.new, order.trace)).collect();
        let mut placed = orders::place(&mut tx, &new, &mut self.id_pool).await?.into_iter();
        let mut answers = vec![];
        let mut waiting = 0;
        for (order, fate) in pending.iter().zip(&mut fates).filter(|(_, fate)| fate.is_none()) {
            let outcome = match placed.next().expect("an outcome for every order") {
                Ok(placed) => Ok(placed),
                Err(Refusal::Final(error)) => Err(error),
                Err(Refusal::UnknownReference(_)) if waiting < room && order.is_patient() => {
                    waiting += 1;
                    *fate = Some(Outcome::Waits);
                    continue;
                }
                Err(Refusal::UnknownReference(rules)) => Err(order.unknown_reference(rules)),
            };
            if let Some(key) = &order.key
                && let Some(answer) = key.answer(&outcome)?
            {
                answers.push((&key.key, answer));
            }
            *fate = Some(Outcome::Answered(outcome.map(Replayable::Now)));
        }
        if !answers.is_empty() {
            idempotency::keep(&mut tx, &answers).await?;
        }
        tx.commit().failpoint("place: commit").await?;
        Ok(fates.into_iter().flatten().collect())
    }

    async fn find(&mut self, id: OrderId, caller: Caller) -> Result<Order> {
        let order =
            orders::find(self.session.connection().failpoint("find: connect").await?, id).await?;
        caller.must_be(order.user_id, "this order is somebody else's")?;
        Ok(order)
    }

    async fn set_quantity(
        &mut self,
        id: OrderId,
        item: ItemId,
        quantity: i64,
        caller: Caller,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Item>> {
        let set = async |tx: &mut PgConnection| {
            let owner = orders::lock(tx, id).await?;
            caller.must_be(owner, "this order is somebody else's")?;
            orders::set_quantity(tx, id, item, quantity).await
        };
        change(&mut self.session, key, set).await
    }

    async fn offer(&mut self, news: Vec<ProductUpdate>) -> Result<()> {
        let mut tx = self.session.begin().failpoint("offer: begin").await?;
        stock::offer(&mut tx, &news).await?;
        tx.commit().failpoint("offer: commit").await
    }

    async fn take_over(&mut self, sold: Vec<Movement>) -> Result<i64> {
        self.id_pool = IdPool::default(); // the database may be another one than they were taken from
        let mut tx = self.session.begin().failpoint("take over: begin").await?;
        let missing = stock::take_over(&mut tx, &sold).await?;
        tx.commit().failpoint("take over: commit").await?;
        Ok(missing)
    }
}

impl Pending {
    fn is_patient(&self) -> bool {
        self.since.elapsed() < PATIENCE
    }

    /// How long until the next look for the news that it waits for.
    fn looks_again(&self) -> Duration {
        let (soonest, latest) = LOOK_AGAIN;
        (self.since.elapsed() / 2).clamp(soonest, latest)
    }

    /// What to say when patience is over.
    fn unknown_reference(&self, rules: Vec<FieldError>) -> Error {
        let names_caller = self.new.user_id() == self.caller.id
            && rules.iter().any(|rule| rule.field == "user_id");
        match names_caller {
            true => Error::Unavailable("the news of your account has not arrived here yet".into()),
            false => Error::Invalid(rules),
        }
    }
}

/// A batch is a step of its first order's trace, done for the others as well.
fn step(pending: &[Pending]) -> Span {
    let mut traces = pending.iter().filter_map(|order| order.trace);
    let mut step = Span::begin(traces.next(), SpanKind::Internal, "place orders");
    step.set("shop.orders", pending.len() as i64);
    traces.for_each(|other| step.link(other));
    step
}

/// What is clear before anything is placed: who was answered before, is being answered elsewhere, or repeats another
/// order of this batch.
async fn claim(tx: &mut PgConnection, pending: &[Pending]) -> Result<Vec<Option<Outcome>>> {
    let onces = pending.iter().filter_map(|order| order.key.as_ref());
    let keys: Vec<_> = onces.map(|key| &key.key).collect();
    if keys.is_empty() {
        return Ok(pending.iter().map(|_| None).collect());
    }
    let mut claimed = idempotency::claim(tx, &keys).await?.into_iter();
    let mut seen = HashSet::new();
    let fates = pending.iter().map(|order| {
        let key = &order.key.as_ref()?.key;
        match claimed.next().expect("an outcome for every key") {
            Err(error) => Some(Outcome::Answered(Err(error))),
            Ok(Some(answer)) => Some(Outcome::Answered(Ok(Replayable::Before(answer)))),
            Ok(None) => (!seen.insert((key.caller, &key.name))).then_some(Outcome::Follows),
        }
    });
    Ok(fates.collect())
}

impl Actor for Orders {
    type Msg = Msg;

    /// No order is left behind: those that wait for news wait at most as long as they would.
    async fn drain(
        &mut self,
        ctx: &ActorContext<Msg>,
    ) -> Result<Option<Duration>, ActorProcessingErr> {
        self.flush(ctx).await?;
        self.look_again(ctx).await?;
        Ok(self.waiting.first().map(Pending::looks_again))
    }

    fn state(&self) -> Value {
        json!({
            "connected": self.session.is_open(),
            "pending": self.pending.len(),
            "waiting_for_news": self.waiting.len(),
        })
    }

    async fn handle(&mut self, ctx: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Place(new, caller, key, reply) => self.place(ctx, new, caller, key, reply).await,
            Msg::Find(id, caller, reply) => respond(reply, self.find(id, caller).await),
            Msg::SetQuantity(id, item, quantity, caller, key, reply) => {
                respond(reply, self.set_quantity(id, item, quantity, caller, key).await)
            }
            Msg::Offer(news, reply) => respond(reply, self.offer(news).await),
            Msg::TakeOver(sold, reply) => respond(reply, self.take_over(sold).await),
            Msg::Gathered(batch) => {
                self.gathered(ctx, batch);
                Ok(())
            }
            Msg::Flush => self.flush(ctx).await,
            Msg::LookAgain => self.look_again(ctx).await,
        }
    }
}
