//! What a service is: an actor whose work is not to answer messages but to keep something going.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::HandlerResult;
use crate::registry::ActorMetrics;

/// Keeps something going: a listener, a connection, a process.
pub trait Service: Send + 'static {
    /// Works until `stop` is cancelled, then ends in good order. To end before that is a failure, whatever is returned.
    /// What it is at is measured by `actor_metrics`.
    fn run(
        self,
        actor_metrics: Arc<ActorMetrics>,
        stop: CancellationToken,
    ) -> impl Future<Output = HandlerResult> + Send;
}

/// Starts `service` under `supervisor`. When it is stopped it has `grace` to end in good order.
pub async fn spawn_service<S: Service>(
    service: S,
    actor_metrics: &Arc<ActorMetrics>,
    grace: Duration,
    supervisor: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let keeper = Keeper(PhantomData);
    let service = (service, actor_metrics.clone(), grace);
    let (actor, _) = ractor::Actor::spawn_linked(None, keeper, service, supervisor).await?;
    Ok(actor.get_cell())
}

/// The ractor actor that a service is.
struct Keeper<S>(PhantomData<fn() -> S>);

/// The one message: the service's work has ended.
struct Ended(Result<HandlerResult, tokio::task::JoinError>);

struct Kept {
    stop: CancellationToken,
    work: AbortOnDropHandle<()>,
    grace: Duration,
}

impl<S: Service> ractor::Actor for Keeper<S> {
    type Msg = Ended;
    type State = Kept;
    type Arguments = (S, Arc<ActorMetrics>, Duration);

    async fn pre_start(
        &self,
        actor: ActorRef<Ended>,
        (service, actor_metrics, grace): Self::Arguments,
    ) -> Result<Kept, ActorProcessingErr> {
        let stop = CancellationToken::new();
        let work = tokio::spawn(service.run(actor_metrics, stop.clone()));
        let work = tokio::spawn(async move {
            let ended = AbortOnDropHandle::new(work).await;
            actor.send_message(Ended(ended)).ok(); // it may be stopping already
        });
        Ok(Kept { stop, work: AbortOnDropHandle::new(work), grace })
    }

    async fn handle(&self, _: ActorRef<Ended>, Ended(ended): Ended, _: &mut Kept) -> HandlerResult {
        match ended {
            Ok(Ok(())) => Err("it ended by itself".into()),
            Ok(Err(error)) => Err(error),
            Err(panicked) => Err(panicked.into()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Ended>, kept: &mut Kept) -> HandlerResult {
        kept.stop.cancel();
        if tokio::time::timeout(kept.grace, &mut kept.work).await.is_err() {
            tracing::warn!(
                grace_s = kept.grace.as_secs(),
                "a service did not end in time and was cut off"
            );
        }
        Ok(())
    }
}
