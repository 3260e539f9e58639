//! Orders, and the order node's copy of the products for sale. Orders of many callers share a
//! transaction (group commit).

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use shop_persistence::events::{Event, ProductCreated, ReceivedEvent};
use shop_persistence::orders::{self, IdPool, Item, ItemId, NewOrder, Order, OrderId, Refusal};
use shop_persistence::stock::{self, Movement, ProductUpdate};
use shop_persistence::{Database, FieldError, InvalidValue, PgConnection, Session, idempotency};
use shop_runtime::{
    Actor, ActorContext, Addr, BatchLimits, Batcher, Failpoint, Flush, HandlerResult, Span,
    SpanContext, SpanKind, respond,
};
use strum::IntoStaticStr;
use tokio::time::Instant;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::subscriptions::{AnySubscription, Subscription};
use crate::{Caller, Error, Reply, Result};

/// The maximum number of orders in one transaction.
pub const MAX_BATCH: usize = 128;

/// Clients that wait for their responses order again when they have them, so the next batch is likely to
/// be as large as the last one. A transaction costs as much as about 30 orders: more are not waited for.
const BATCH_LIMITS: BatchLimits =
    BatchLimits { max_size: MAX_BATCH, max_target: 32, max_wait: Duration::from_millis(1) };

/// How long an order that names an unknown user or product is retried: the event may still arrive.
const REFERENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum and maximum delay between two retries. In between, the delay is half the time that the
/// order has waited.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The maximum number of orders that wait for events.
const MAX_WAITING: usize = 1024;

/// Messages of the orders actor.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Places an order.
    Place(NewOrder, Caller, Option<IdempotencyKey>, Reply<Replayable<Order>>),
    /// Finds an order of the caller; an administrator finds any.
    Find(OrderId, Caller, Reply<Order>),
    /// Changes the quantity of an item.
    SetQuantity(OrderId, ItemId, i64, Caller, Option<IdempotencyKey>, Reply<Replayable<Item>>),
    /// Applies events of products.
    ApplyProducts(Vec<ProductUpdate>, Reply<()>),
    /// Adds sales that the catalog has recorded and this database lacks; replies with their number.
    TakeOver(Vec<Movement>, Reply<i64>),
    /// The batcher's message to this actor.
    Flush(Flush),
    /// Retries the orders that wait for events: this actor's message to itself.
    RetryWaiting,
}

/// The actor that serves a shard of the orders.
#[derive(Debug)]
pub struct Orders {
    session: Session,
    /// The orders of the next transaction.
    batch: Batcher<Pending, Msg>,
    /// Orders that name a user or product whose event has not arrived.
    waiting: Vec<Pending>,
    /// Ids for the next orders.
    id_pool: IdPool,
}

/// An order that is not committed yet.
#[derive(Debug)]
struct Pending {
    new: NewOrder,
    caller: Caller,
    key: Option<IdempotencyKey>,
    since: Instant,
    /// The span of the request.
    span: Option<SpanContext>,
    reply: Reply<Replayable<Order>>,
}

/// What a batch decided for an order.
#[derive(Debug)]
enum Outcome {
    /// Send this reply.
    Reply(Result<Replayable<Order>>),
    /// Retry it later: the event of a user or product may still arrive.
    Retry,
    /// Place it in the next batch: this batch has an earlier order with the same idempotency key.
    Defer,
}

impl Orders {
    /// A shard of the orders of this database.
    pub fn new(database: &Database) -> Orders {
        Orders {
            session: database.session(),
            batch: Batcher::new(BATCH_LIMITS, Msg::Flush),
            waiting: vec![],
            id_pool: IdPool::default(),
        }
    }

    async fn place(&mut self, context: &ActorContext<Msg>, order: Pending) -> HandlerResult {
        let allowed = "an order is placed for oneself; only an administrator may name another user";
        if let Err(error) = order.caller.must_be(order.new.user_id(), allowed) {
            return respond(order.reply, Err(error));
        }
        let complete = self.batch.push(context, order);
        if self.batch.len() == 1 {
            // Overlaps the round trip with collecting further orders. If it fails, so does the
            // transaction itself, which reports the error.
            self.session.begin_early().failpoint("place: begin early").await.ok();
        }
        match complete {
            Some(batch) => self.commit_batch(context, batch).await,
            None => Ok(()),
        }
    }

    async fn flush(&mut self, context: &ActorContext<Msg>, flush: Flush) -> HandlerResult {
        match self.batch.on_flush(context, flush) {
            Some(batch) => self.commit_batch(context, batch).await,
            None => Ok(()),
        }
    }

    async fn retry_waiting(&mut self, context: &ActorContext<Msg>) -> HandlerResult {
        let mut waiting = std::mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let batch = waiting.drain(..waiting.len().min(MAX_BATCH)).collect();
            self.commit_batch(context, batch).await?;
        }
        Ok(())
    }

    /// Places a batch in one transaction and sends the replies after the commit.
    async fn commit_batch(
        &mut self,
        context: &ActorContext<Msg>,
        batch: Vec<Pending>,
    ) -> HandlerResult {
        if batch.is_empty() {
            return Ok(());
        }
        let span = batch_span(&batch);
        let transaction = Box::pin(self.transact(&batch)); // large, and awaited in several places
        let outcomes = span.context().scope(transaction).failpoint("place: batch").await;
        span.finish_with(&outcomes);
        let outcomes = match outcomes {
            Err(error @ Error::Internal(_)) => return Err(error.into()),
            Err(error) => {
                let reason = error.to_string();
                let refuse = || Err(Error::Unavailable(reason.clone().into()));
                return batch.into_iter().try_for_each(|order| respond(order.reply, refuse()));
            }
            Ok(outcomes) => outcomes,
        };
        for (order, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Reply(reply) => respond(order.reply, reply)?,
                Outcome::Retry => {
                    if self.waiting.is_empty() {
                        context.tell_after(order.retry_delay(), || Msg::RetryWaiting);
                    }
                    self.waiting.push(order);
                }
                Outcome::Defer => self.batch.push_ready(context, order),
            }
        }
        Ok(())
    }

    /// The transaction of a batch: claims idempotency keys, decides and inserts the orders, stores the
    /// responses, commits.
    async fn transact(&mut self, batch: &[Pending]) -> Result<Vec<Outcome>> {
        let mut retries_left = MAX_WAITING.saturating_sub(self.waiting.len());
        let mut tx = self.session.begin().failpoint("place: begin").await?;
        let mut outcomes = claim_keys(&mut tx, batch).await?;
        let undecided = || batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_none());
        let new: Vec<_> = undecided().map(|(order, _)| (&order.new, order.span)).collect();
        let mut placed = orders::place(&mut tx, &new, &mut self.id_pool).await?.into_iter();
        let mut responses = vec![];
        let undecided = batch.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none());
        for (order, outcome) in undecided {
            let reply = match placed.next().expect("an outcome for every order") {
                Ok(placed) => Ok(placed),
                Err(Refusal::Final(error)) => Err(error.into()),
                Err(Refusal::UnknownReference(_)) if retries_left > 0 && order.may_retry() => {
                    retries_left -= 1;
                    *outcome = Some(Outcome::Retry);
                    continue;
                }
                Err(Refusal::UnknownReference(errors)) => Err(order.unknown_reference(errors)),
            };
            if let Some(key) = &order.key
                && let Some(response) = key.answer(&reply)?
            {
                responses.push((&key.key, response));
            }
            *outcome = Some(Outcome::Reply(reply.map(Replayable::New)));
        }
        if !responses.is_empty() {
            idempotency::store(&mut tx, &responses).await?;
        }
        tx.commit().failpoint("place: commit").await?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn find(&mut self, id: OrderId, caller: Caller) -> Result<Order> {
        let connection = self.session.connection().failpoint("find: connect").await?;
        let order = orders::find(connection, id).await?;
        caller.must_be(order.user_id, "the order belongs to another user")?;
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
            caller.must_be(owner, "the order belongs to another user")?;
            Ok(orders::set_quantity(tx, id, item, quantity).await?)
        };
        change(&mut self.session, key, set).await
    }

    async fn apply_products(&mut self, updates: Vec<ProductUpdate>) -> Result<()> {
        let mut tx = self.session.begin().failpoint("products: begin").await?;
        stock::offer(&mut tx, &updates).await?;
        Ok(tx.commit().failpoint("products: commit").await?)
    }

    async fn take_over(&mut self, sales: Vec<Movement>) -> Result<i64> {
        self.id_pool = IdPool::default(); // its ids may come from another database
        let mut tx = self.session.begin().failpoint("take over: begin").await?;
        let missing = stock::take_over(&mut tx, &sales).await?;
        tx.commit().failpoint("take over: commit").await?;
        Ok(missing)
    }
}

impl Pending {
    fn may_retry(&self) -> bool {
        self.since.elapsed() < REFERENCE_TIMEOUT
    }

    fn retry_delay(&self) -> Duration {
        let (min, max) = RETRY_DELAY;
        (self.since.elapsed() / 2).clamp(min, max)
    }

    /// The error for references that are still unknown. The caller's own user exists, since its token
    /// is valid: its event is late.
    fn unknown_reference(&self, errors: Vec<FieldError>) -> Error {
        let is_caller = self.new.user_id() == self.caller.id
            && errors.iter().any(|error| error.field == "user_id");
        if is_caller {
            Error::Unavailable("the event of your registration has not arrived yet".into())
        } else {
            Error::Invalid(errors)
        }
    }
}

/// The span of a batch: a child of its first order's span, linked to those of the others.
fn batch_span(batch: &[Pending]) -> Span {
    let mut spans = batch.iter().filter_map(|order| order.span);
    let mut span = Span::start(spans.next(), SpanKind::Internal, "place orders");
    span.set("shop.orders", batch.len() as i64);
    for other in spans {
        span.link(other);
    }
    span
}

/// The outcomes that idempotency keys decide: a stored response, a key in flight elsewhere, or a key that
/// an earlier order of the batch has. `None` for orders that are to be placed.
async fn claim_keys(tx: &mut PgConnection, batch: &[Pending]) -> Result<Vec<Option<Outcome>>> {
    let keys: Vec<_> =
        batch.iter().filter_map(|order| order.key.as_ref()).map(|key| &key.key).collect();
    if keys.is_empty() {
        return Ok(batch.iter().map(|_| None).collect());
    }
    let mut claims = idempotency::claim(tx, &keys).await?.into_iter();
    let mut seen = HashSet::new();
    let outcomes = batch.iter().map(|order| {
        let key = &order.key.as_ref()?.key;
        match claims.next().expect("a claim for every key") {
            Err(error) => Some(Outcome::Reply(Err(error.into()))),
            Ok(Some(response)) => Some(Outcome::Reply(Ok(Replayable::Replay(response)))),
            Ok(None) => (!seen.insert((key.caller, &key.name))).then_some(Outcome::Defer),
        }
    });
    Ok(outcomes.collect())
}

impl Actor for Orders {
    type Msg = Msg;

    /// Commits the pending batch and retries the waiting orders until each has a reply.
    async fn drain(&mut self, context: &ActorContext<Msg>) -> HandlerResult<Option<Duration>> {
        let batch = self.batch.take();
        self.commit_batch(context, batch).await?;
        self.retry_waiting(context).await?;
        Ok(self.waiting.first().map(Pending::retry_delay))
    }

    fn state(&self) -> Value {
        json!({
            "connected": self.session.is_open(),
            "pending": self.batch.len(),
            "waiting_for_events": self.waiting.len(),
        })
    }

    async fn handle(&mut self, context: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Place(new, caller, key, reply) => {
                let (since, span) = (Instant::now(), SpanContext::current());
                let order = Pending { new, caller, key, since, span, reply };
                self.place(context, order).await
            }
            Msg::Find(id, caller, reply) => respond(reply, self.find(id, caller).await),
            Msg::SetQuantity(id, item, quantity, caller, key, reply) => {
                respond(reply, self.set_quantity(id, item, quantity, caller, key).await)
            }
            Msg::ApplyProducts(updates, reply) => {
                respond(reply, self.apply_products(updates).await)
            }
            Msg::TakeOver(sales, reply) => respond(reply, self.take_over(sales).await),
            Msg::Flush(flush) => self.flush(context, flush).await,
            Msg::RetryWaiting => self.retry_waiting(context).await,
        }
    }
}

/// The events that orders actors apply.
pub fn subscriptions(orders: &Addr<Msg>) -> Vec<AnySubscription> {
    vec![AnySubscription::new(ProductEvents(orders.clone()))]
}

struct ProductEvents(Addr<Msg>);

impl Subscription for ProductEvents {
    type Update = ProductUpdate;

    fn queue(&self) -> &'static str {
        ProductCreated::NAME
    }

    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<ProductUpdate, InvalidValue> {
        let ProductCreated(offer) = event.read()?;
        Ok(ProductUpdate { version: event.version()?, offer })
    }

    fn apply(&self, updates: Vec<ProductUpdate>) -> impl Future<Output = Result<()>> + Send {
        self.0.ask((), |reply| Msg::ApplyProducts(updates, reply))
    }
}
