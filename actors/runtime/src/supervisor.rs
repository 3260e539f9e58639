//! Supervision: a supervisor starts its children, restarts those that fail, carries out what
//! administrators request, and stops all of them in reverse order.

mod child;
mod policy;
mod root;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::SignedDuration;
use ractor::{ActorId, ActorRef, SupervisionEvent};

pub use child::{Child, GRACE};
pub use policy::{RestartIntensity, RestartPolicy, Strategy};
pub use root::Root;

use crate::actor::HandlerResult;
use crate::clock::now;
use crate::registry::{ActorMetrics, ControlAction, Phase};
use child::{ChildState, ExitIntent, kill};

/// The ractor actor that supervises children.
struct Supervisor {
    actor_metrics: Arc<ActorMetrics>,
    strategy: Strategy,
    policy: RestartPolicy,
}

/// The messages of a supervisor. A child is named by its index.
#[derive(Debug, strum::IntoStaticStr)]
enum Msg {
    /// The restart delay of a child has elapsed.
    Start(usize),
    /// An administrator requests an action on a child and gives a reason.
    Control(usize, ControlAction, String),
    /// A child was killed and has not ended in time.
    KillTimeout(usize, ActorId),
}

impl Supervisor {
    /// Starts a child and, with `RestForOne`, the stopped children after it.
    async fn start_from(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut [ChildState],
        index: usize,
    ) -> HandlerResult {
        let end = match self.strategy {
            Strategy::OneForOne => index + 1,
            Strategy::RestForOne => children.len(),
        };
        for index in index..end {
            if !children[index].start_is_due {
                self.start(myself, children, index).await?;
            }
        }
        Ok(())
    }

    /// Starts a child unless it runs, an administrator stopped it, or it depends on a child that has
    /// failed. A failed start counts as a failure of the child.
    async fn start(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut [ChildState],
        index: usize,
    ) -> HandlerResult {
        let dependency_failed = self.strategy == Strategy::RestForOne
            && children[..index]
                .iter()
                .any(|other| !other.is_running() && other.on_exit == ExitIntent::Restart);
        let child = &mut children[index];
        if dependency_failed || child.is_running() || child.is_stopped_by_administrator() {
            return Ok(());
        }
        child.actor_metrics().enter(Phase::Starting);
        match child.spawn(myself.get_cell()).await {
            Ok(()) => {
                child.actor_metrics().enter(Phase::Running);
                Ok(())
            }
            Err(error) => self.on_exit(myself, children, index, &error.to_string()).await,
        }
    }

    /// Handles the exit of a child according to its intent: leave it stopped, restart it at once, or
    /// restart it after a backoff.
    async fn on_exit(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut [ChildState],
        index: usize,
        reason: &str,
    ) -> HandlerResult {
        let intent = children[index].exited();
        let actor = children[index].actor_metrics().path().to_owned();
        if let ExitIntent::Stop(phase) = intent {
            children[index].actor_metrics().enter(phase);
            children[index].on_exit = ExitIntent::Stop(phase);
            tracing::warn!(actor, ?phase, "actor stopped by an administrator");
            return Ok(());
        }
        if self.strategy == Strategy::RestForOne {
            for dependent in children[index + 1..].iter_mut().rev() {
                dependent.stop().await;
            }
        }
        let child = &mut children[index];
        let ExitIntent::RestartBecause(request) = intent else {
            return self.restart_after_failure(myself, child, index, reason);
        };
        child.actor_metrics().set_paused(false);
        child.actor_metrics().set_closed(false);
        child.actor_metrics().fail(&format!("restarted by an administrator: {request}"));
        tracing::warn!(actor, reason = request, "restarting an actor for an administrator");
        child.start_is_due = true;
        myself.send_message(Msg::Start(index)).ok();
        Ok(())
    }

    /// Schedules the restart of a failed child, or fails the supervisor if the child failed too often.
    fn restart_after_failure(
        &self,
        myself: &ActorRef<Msg>,
        child: &mut ChildState,
        index: usize,
        reason: &str,
    ) -> HandlerResult {
        let actor_metrics = child.actor_metrics().clone();
        let actor = actor_metrics.path();
        actor_metrics.fail(reason);
        let failures = child.count_failure(&self.policy);
        if failures >= self.policy.intensity(actor_metrics.kind()).max_restarts {
            actor_metrics.enter(Phase::Stopped);
            tracing::error!(actor, reason, failures, "supervisor gives up on a child");
            let error =
                format!("{actor} failed {failures} times within its window; last: {reason}");
            return Err(error.into());
        }
        let delay = child.backoff.next_delay();
        tracing::error!(actor, reason, restart_ms = delay.as_millis(), "actor failed");
        let from_now = SignedDuration::try_from(delay).unwrap_or_default();
        let restart_at = now().saturating_add(from_now).unwrap_or_else(|_| now());
        actor_metrics.enter(Phase::Restarting(restart_at));
        child.start_is_due = true;
        drop(myself.send_after(delay, move || Msg::Start(index)));
        Ok(())
    }

    /// Carries out what an administrator requests.
    async fn control(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut [ChildState],
        index: usize,
        action: ControlAction,
        reason: String,
    ) -> HandlerResult {
        let child = &mut children[index];
        let start_again = match action {
            ControlAction::Restart => child.request_restart(myself, index, reason),
            ControlAction::Pause => child.pause(myself, index),
            ControlAction::Resume => child.resume(),
            ControlAction::Drain => child.drain(),
        };
        if start_again {
            return self.start_from(myself, children, index).await;
        }
        Ok(())
    }
}

impl ChildState {
    /// Restarts it. Returns whether it must be started by the caller, because it does not run.
    fn request_restart(&mut self, myself: &ActorRef<Msg>, index: usize, reason: String) -> bool {
        let Some(cell) = self.cell.clone() else {
            self.actor_metrics().set_paused(false);
            self.actor_metrics().set_closed(false);
            self.on_exit = ExitIntent::Restart;
            self.start_is_due = false;
            return true;
        };
        self.on_exit = ExitIntent::RestartBecause(reason);
        kill(cell, self.is_actor(), myself.clone(), index);
        false
    }

    /// Pauses it: an actor keeps its mailbox, a service is stopped.
    fn pause(&mut self, myself: &ActorRef<Msg>, index: usize) -> bool {
        if self.is_actor() {
            self.actor_metrics().set_paused(true);
            self.actor_metrics().enter(Phase::Paused);
            return false;
        }
        self.on_exit = ExitIntent::Stop(Phase::Paused);
        match &self.cell {
            Some(cell) => {
                self.actor_metrics().enter(Phase::Draining);
                kill(cell.clone(), false, myself.clone(), index);
            }
            None => self.actor_metrics().enter(Phase::Paused),
        }
        false
    }

    /// Resumes it. Returns whether it must be started by the caller, because it does not run.
    fn resume(&mut self) -> bool {
        self.actor_metrics().set_closed(false);
        self.actor_metrics().set_paused(false);
        if !self.is_running() {
            self.on_exit = ExitIntent::Restart;
            return true;
        }
        if self.is_stopped_by_administrator() {
            let reason = "resumed while it was stopping";
            self.on_exit = ExitIntent::RestartBecause(reason.into());
        } else {
            self.actor_metrics().enter(Phase::Running);
        }
        false
    }

    /// Stops it once its waiting messages are handled; new messages are refused.
    fn drain(&mut self) -> bool {
        self.actor_metrics().set_closed(true);
        self.actor_metrics().set_paused(false);
        self.on_exit = ExitIntent::Stop(Phase::Stopped);
        match &self.cell {
            Some(cell) => {
                self.actor_metrics().enter(Phase::Draining);
                drop(cell.drain());
            }
            None => self.actor_metrics().enter(Phase::Stopped),
        }
        false
    }
}

impl ractor::Actor for Supervisor {
    type Msg = Msg;
    type State = Vec<ChildState>;
    type Arguments = Vec<Child>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        children: Vec<Child>,
    ) -> HandlerResult<Vec<ChildState>> {
        let mut children: Vec<_> =
            children.into_iter().map(|child| ChildState::new(child, self.policy)).collect();
        for (index, child) in children.iter().enumerate() {
            child.accept_control(index, &myself);
        }
        for index in 0..children.len() {
            self.start(&myself, &mut children, index).await?;
        }
        Ok(children)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        children: &mut Vec<ChildState>,
    ) -> HandlerResult {
        let name = (&message).into();
        let handler = async {
            match message {
                Msg::Start(index) => {
                    children[index].start_is_due = false;
                    self.start_from(&myself, children, index).await
                }
                Msg::Control(index, action, reason) => {
                    self.control(&myself, children, index, action, reason).await
                }
                Msg::KillTimeout(index, id) => {
                    if children[index].is(id) {
                        let reason = "abandoned after the kill timeout";
                        self.on_exit(&myself, children, index, reason).await
                    } else {
                        Ok(())
                    }
                }
            }
        };
        self.actor_metrics.measure(name, handler).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        children: &mut Vec<ChildState>,
    ) -> HandlerResult {
        // Only this supervisor stops its children, so an exit without an error (a kill) is a failure too.
        let (exited, reason, failed) = match event {
            SupervisionEvent::ActorFailed(exited, error) => (exited, error.to_string(), true),
            SupervisionEvent::ActorTerminated(exited, _, reason) => {
                (exited, reason.unwrap_or_else(|| "the actor ended".into()), false)
            }
            _ => return Ok(()),
        };
        let Some(index) = children.iter().position(|child| child.is(exited.get_id())) else {
            return Ok(());
        };
        if failed && children[index].is_stopped_by_administrator() {
            children[index].actor_metrics().fail(&reason); // it failed while it was stopping
        }
        self.actor_metrics.measure("Exit", self.on_exit(&myself, children, index, &reason)).await
    }

    /// Stops the children in reverse order of their start, each after its waiting messages.
    async fn post_stop(&self, _: ActorRef<Msg>, children: &mut Vec<ChildState>) -> HandlerResult {
        for child in children.iter_mut().rev() {
            child.stop().await;
        }
        Ok(())
    }
}
