//! Children of a supervisor: how they are started, and their state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{ActorCell, ActorId, ActorRef, SpawnErr};
use tokio::time::Instant;

use super::{Msg, RestartPolicy, Strategy, Supervisor};
use crate::Backoff;
use crate::actor::{Actor, HandlerResult};
use crate::mailbox::Mailbox;
use crate::registry::{ActorKind, ActorMetrics, ActorRegistry, AllowedControl, Phase};
use crate::service::{Service, spawn_service};
use crate::worker::spawn_actor;

/// How long a child may take to shut down gracefully before it is aborted.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a killed child may take to end. One that blocks its thread never does: it is abandoned.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

type Started = Result<ActorCell, SpawnErr>;

/// A child of a supervisor: how it is started, at first and after each failure, and what an
/// administrator may do with it.
pub struct Child {
    actor_metrics: Arc<ActorMetrics>,
    /// The part of the registry below it, if it is a supervisor itself.
    branch: Option<ActorRegistry>,
    control: Option<AllowedControl>,
    start: Box<dyn Fn(ActorCell) -> BoxFuture<'static, Started> + Send + Sync>,
}

impl Child {
    /// A child that `start` starts, linked to the supervisor that it is given.
    fn new<F>(
        actor_metrics: &Arc<ActorMetrics>,
        start: impl Fn(Arc<ActorMetrics>, ActorCell) -> F + Send + Sync + 'static,
    ) -> Child
    where
        F: Future<Output = Started> + Send + 'static,
    {
        let (actor_metrics, of_child) = (actor_metrics.clone(), actor_metrics.clone());
        let start = move |supervisor| -> BoxFuture<'static, Started> {
            Box::pin(start(of_child.clone(), supervisor))
        };
        let control = Some(AllowedControl::All);
        Child { actor_metrics, branch: None, control, start: Box::new(start) }
    }

    /// An actor that handles the messages of `mailbox`. `make` creates it at each start.
    pub fn actor<A: Actor>(
        mailbox: &Arc<Mailbox<A::Msg>>,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Child {
        let its_mailbox = mailbox.clone();
        Child::new(mailbox.actor_metrics(), move |_, supervisor| {
            let (actor, mailbox) = (make(), its_mailbox.clone());
            async move { spawn_actor(actor, &mailbox, supervisor).await }
        })
    }

    /// A service that has `grace` to shut down. Each start runs a clone of it.
    pub fn service<S: Service + Clone + Sync>(
        actor_metrics: &Arc<ActorMetrics>,
        grace: Duration,
        service: S,
    ) -> Child {
        Child::new(actor_metrics, move |actor_metrics, supervisor| {
            let service = service.clone();
            async move { spawn_service(service, &actor_metrics, grace, supervisor).await }
        })
    }

    /// A supervisor of the children that `children` creates at each start.
    pub fn supervisor(
        branch: &ActorRegistry,
        strategy: Strategy,
        policy: RestartPolicy,
        children: impl Fn() -> HandlerResult<Vec<Child>> + Send + Sync + 'static,
    ) -> Child {
        let actor_metrics = branch.actor_metrics(ActorKind::Supervisor, None, 1);
        let start = move |actor_metrics, supervisor| {
            let children = children().map_err(SpawnErr::StartupFailed);
            async move {
                let child = Supervisor { actor_metrics, strategy, policy };
                let (child, _) =
                    ractor::Actor::spawn_linked(None, child, children?, supervisor).await?;
                Ok(child.get_cell())
            }
        };
        Child { branch: Some(branch.clone()), ..Child::new(&actor_metrics, start).restart_only() }
    }

    /// Its metrics.
    pub fn actor_metrics(&self) -> &Arc<ActorMetrics> {
        &self.actor_metrics
    }

    /// The same child, which administrators can restart and not pause or drain.
    pub fn restart_only(self) -> Child {
        Child { control: Some(AllowedControl::Restart), ..self }
    }

    /// The same child, which administrators cannot control.
    pub fn uncontrolled(self) -> Child {
        Child { control: None, ..self }
    }
}

/// What the supervisor does when a child exits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExitIntent {
    /// Restart it after a backoff: no exit was requested, so it failed.
    Restart,
    /// Restart it at once, for the reason that an administrator gave.
    RestartBecause(String),
    /// Leave it stopped until an administrator resumes it.
    Stop(Phase),
}

/// A child and what its supervisor knows of it.
pub struct ChildState {
    child: Child,
    /// The running ractor actor.
    pub(super) cell: Option<ActorCell>,
    pub(super) backoff: Backoff,
    failures: VecDeque<Instant>,
    pub(super) on_exit: ExitIntent,
    /// Whether a `Start` is scheduled.
    pub(super) start_is_due: bool,
}

impl ChildState {
    pub(super) fn new(child: Child, policy: RestartPolicy) -> ChildState {
        ChildState {
            child,
            cell: None,
            backoff: Backoff::new(policy.min_backoff, policy.max_backoff),
            failures: VecDeque::new(),
            on_exit: ExitIntent::Restart,
            start_is_due: false,
        }
    }

    pub(super) fn actor_metrics(&self) -> &Arc<ActorMetrics> {
        &self.child.actor_metrics
    }

    pub(super) fn is_actor(&self) -> bool {
        self.actor_metrics().kind() == ActorKind::Actor
    }

    pub(super) fn is_running(&self) -> bool {
        self.cell.is_some()
    }

    pub(super) fn is_stopped_by_administrator(&self) -> bool {
        matches!(self.on_exit, ExitIntent::Stop(_))
    }

    /// Whether this ractor actor is the running child.
    pub(super) fn is(&self, id: ActorId) -> bool {
        self.cell.as_ref().is_some_and(|cell| cell.get_id() == id)
    }

    /// Routes administrators' requests to the supervisor. A pause or drain of an earlier incarnation
    /// ends here.
    pub(super) fn accept_control(&self, index: usize, supervisor: &ActorRef<Msg>) {
        self.actor_metrics().set_paused(false);
        self.actor_metrics().set_closed(false);
        if let Some(allowed) = self.child.control {
            let supervisor = supervisor.clone();
            self.actor_metrics().on_control(allowed, move |action, reason| {
                supervisor.send_message(Msg::Control(index, action, reason)).is_ok()
            });
        }
    }

    pub(super) async fn spawn(&mut self, supervisor: ActorCell) -> Result<(), SpawnErr> {
        self.cell = Some((self.child.start)(supervisor).await?);
        Ok(())
    }

    /// Records that it has exited, with everything below it, and returns the intent of its exit.
    pub(super) fn exited(&mut self) -> ExitIntent {
        self.cell = None;
        if let Some(branch) = &self.child.branch {
            branch.mark_stopped();
        }
        std::mem::replace(&mut self.on_exit, ExitIntent::Restart)
    }

    /// Counts a failure and returns how many are within the window.
    pub(super) fn count_failure(&mut self, policy: &RestartPolicy) -> usize {
        let window = policy.intensity(self.actor_metrics().kind()).window;
        self.failures.push_back(Instant::now());
        self.failures.retain(|failure| failure.elapsed() < window);
        self.failures.len()
    }

    /// Stops it after its waiting messages.
    pub(super) async fn stop(&mut self) {
        let Some(cell) = self.cell.take() else { return };
        let actor_metrics = self.actor_metrics().clone();
        actor_metrics.set_paused(false); // a paused actor would never handle its messages
        if cell.drain_and_wait(Some(2 * GRACE)).await.is_err() {
            tracing::warn!(
                actor = actor_metrics.path(),
                "killed an actor that did not stop in time"
            );
            cell.kill();
        }
        if let ExitIntent::Stop(phase) = self.on_exit {
            actor_metrics.enter(phase);
        } else {
            self.on_exit = ExitIntent::Restart;
            actor_metrics.enter(Phase::Stopped);
        }
    }
}

/// Kills a child, at once or after it had the time to stop gracefully. Reports to the supervisor if it
/// does not end.
pub(super) fn kill(cell: ActorCell, at_once: bool, supervisor: ActorRef<Msg>, index: usize) {
    tokio::spawn(async move {
        if !at_once {
            cell.drain_and_wait(Some(2 * GRACE)).await.ok();
        }
        cell.kill();
        let id = cell.get_id();
        drop(supervisor.send_after(KILL_TIMEOUT, move || Msg::KillTimeout(index, id)));
    });
}
