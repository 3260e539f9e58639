//! Runs an actor: takes messages from its mailbox, measures and traces the handler, and applies pause,
//! deadlines and draining.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorRef, SpawnErr};
use tokio::time::{Instant, timeout_at};

use crate::actor::{Actor, ActorContext, HandlerResult};
use crate::mailbox::{Envelope, Mailbox, Message, Signal};
use crate::{SpanKind, TaskContext};

/// How long a handler may run past its message's deadline before the actor fails. It exceeds the
/// database's statement timeout, so that only a stalled network connection triggers it; the new actor
/// then opens a new connection.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(12);

/// Starts `actor` on `mailbox`, linked to `supervisor`.
pub(crate) async fn spawn_actor<A: Actor>(
    actor: A,
    mailbox: &Arc<Mailbox<A::Msg>>,
    supervisor: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let worker = Worker(PhantomData);
    let (actor, _) =
        ractor::Actor::spawn_linked(None, worker, (actor, mailbox.clone()), supervisor).await?;
    Ok(actor.get_cell())
}

/// The ractor actor that runs an [`Actor`].
struct Worker<A>(PhantomData<fn() -> A>);

impl<A: Actor> ractor::Actor for Worker<A> {
    type Msg = Signal<A::Msg>;
    type State = (A, ActorContext<A::Msg>);
    type Arguments = (A, Arc<Mailbox<A::Msg>>);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (actor, mailbox): Self::Arguments,
    ) -> HandlerResult<Self::State> {
        mailbox.attach(myself.clone());
        Ok((actor, ActorContext { mailbox, actor: myself }))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        signal: Self::Msg,
        (actor, context): &mut Self::State,
    ) -> HandlerResult {
        let mailbox = context.mailbox.clone();
        let actor_metrics = mailbox.actor_metrics();
        if !matches!(signal, Signal::ReportState) {
            // The message is taken only after the pause: a restart while paused loses nothing.
            actor_metrics.unless_paused().await;
        }
        let envelope = match signal {
            Signal::ReportState => None,
            Signal::Timer(envelope) => Some(envelope),
            Signal::Message => mailbox.take(),
        };
        if let Some(envelope) = envelope {
            process(actor, context, envelope).await?;
        }
        actor_metrics.report_state(|| actor.state());
        Ok(())
    }

    /// Handles the waiting messages and the deferred work.
    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        (actor, context): &mut Self::State,
    ) -> HandlerResult {
        let mailbox = context.mailbox.clone();
        loop {
            while let Some(envelope) = mailbox.take() {
                process(actor, context, envelope).await?;
            }
            match actor.drain(context).await? {
                Some(delay) => tokio::time::sleep(delay).await,
                None if mailbox.is_empty() => return Ok(()),
                None => {}
            }
        }
    }
}

/// Runs the handler for one message, within its trace and a time limit.
async fn process<A: Actor>(
    actor: &mut A,
    actor_context: &ActorContext<A::Msg>,
    envelope: Envelope<A::Msg>,
) -> HandlerResult {
    let mut context = envelope.context.clone();
    let (now, is_ask) = (Instant::now(), envelope.deadline.is_some());
    let limit = envelope.deadline.unwrap_or(now) + HANDLER_TIMEOUT;
    let Some((message, processing)) = envelope.open(now) else { return Ok(()) };
    let (kind, name) = (actor_context.mailbox.kind, message.name());
    // A message of the actor to itself continues the span of the message that caused it.
    let span = context.as_mut().filter(|_| is_ask).map(|context: &mut TaskContext| {
        let span = context.span.child(SpanKind::Internal, format_args!("{kind} {name}"));
        context.span = span.context();
        span
    });
    // Boxed, because every combinator around an unboxed future stores it again: without the box, each
    // message copied tens of kilobytes.
    let handler = Box::pin(actor.handle(actor_context, message));
    let handler = async {
        match context {
            Some(context) => context.scope(handler).await,
            None => handler.await,
        }
    };
    let handled = match timeout_at(limit, handler).await {
        Ok(handled) => handled,
        Err(_) => Err("the handler exceeded its time limit".into()),
    };
    if let Some(span) = span {
        span.finish_with(&handled);
    }
    handled?;
    processing.done();
    Ok(())
}
