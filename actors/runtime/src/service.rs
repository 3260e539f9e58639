//! Services: actors that run a loop instead of handling messages.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorRef, SpawnErr};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::actor::HandlerResult;
use crate::registry::ActorMetrics;

/// A loop under supervision: a server, a connection, a child process.
pub trait Service: Send + 'static {
    /// Runs until `stop` is cancelled, then shuts down gracefully. Returning earlier is a failure,
    /// whatever the result. `actor_metrics` measures its work.
    fn run(
        self,
        actor_metrics: Arc<ActorMetrics>,
        stop: CancellationToken,
    ) -> impl Future<Output = HandlerResult> + Send;
}

/// Starts `service`, linked to `supervisor`. After `stop` it has `grace` to shut down, then it is
/// aborted.
pub(crate) async fn spawn_service<S: Service>(
    service: S,
    actor_metrics: &Arc<ActorMetrics>,
    grace: Duration,
    supervisor: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let runner = Runner(PhantomData);
    let arguments = (service, actor_metrics.clone(), grace);
    let (actor, _) = ractor::Actor::spawn_linked(None, runner, arguments, supervisor).await?;
    Ok(actor.get_cell())
}

/// The ractor actor that runs a [`Service`].
struct Runner<S>(PhantomData<fn() -> S>);

/// The service's task has ended.
struct Ended(Result<HandlerResult, JoinError>);

struct Running {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
    grace: Duration,
}

impl<S: Service> ractor::Actor for Runner<S> {
    type Msg = Ended;
    type State = Running;
    type Arguments = (S, Arc<ActorMetrics>, Duration);

    async fn pre_start(
        &self,
        myself: ActorRef<Ended>,
        (service, actor_metrics, grace): Self::Arguments,
    ) -> HandlerResult<Running> {
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(actor_metrics, stop.clone()));
        let task = tokio::spawn(async move {
            let ended = AbortOnDropHandle::new(task).await;
            myself.send_message(Ended(ended)).ok(); // fails if this actor is stopping
        });
        Ok(Running { stop, task: AbortOnDropHandle::new(task), grace })
    }

    async fn handle(
        &self,
        _: ActorRef<Ended>,
        Ended(ended): Ended,
        _: &mut Running,
    ) -> HandlerResult {
        match ended {
            Ok(Ok(())) => Err("the service returned although it was not stopped".into()),
            Ok(Err(error)) => Err(error),
            Err(panicked) => Err(panicked.into()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Ended>, running: &mut Running) -> HandlerResult {
        running.stop.cancel();
        if tokio::time::timeout(running.grace, &mut running.task).await.is_err() {
            let grace_seconds = running.grace.as_secs();
            tracing::warn!(grace_seconds, "aborted a service that did not shut down in time");
        }
        Ok(())
    }
}
