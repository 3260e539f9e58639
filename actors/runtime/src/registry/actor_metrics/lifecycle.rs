//! An actor's phase, restarts, failures and control.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use super::{ActorMetrics, lock};
use crate::clock::now;
use crate::registry::status::{AllowedControl, ControlAction, Failure, Phase};
use crate::trace::SpanContext;
use crate::{Error, Result};

/// The number of failures that are kept.
const MAX_FAILURES: usize = 20;

/// The maximum length of a failure's reason, in characters.
const MAX_REASON: usize = 500;

/// Passes an action to the supervisor; returns whether the supervisor still runs.
type Controller = Arc<dyn Fn(ControlAction, String) -> bool + Send + Sync>;

/// What changes rarely in an actor's life.
pub(super) struct Lifecycle {
    pub(super) phase: Phase,
    started_at: Option<Timestamp>,
    restarts: u64,
    failures: VecDeque<Failure>,
    /// The message whose handler was interrupted.
    pub(super) interrupted: Option<(String, Option<SpanContext>)>,
    control: Option<(AllowedControl, Controller)>,
    state_request: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle {
            phase: Phase::Starting,
            started_at: None,
            restarts: 0,
            failures: VecDeque::new(),
            interrupted: None,
            control: None,
            state_request: None,
        }
    }
}

impl ActorMetrics {
    /// The actor enters a phase.
    pub fn enter(&self, phase: Phase) {
        let mut lifecycle = lock(&self.lifecycle);
        if phase == Phase::Running && lifecycle.phase != Phase::Paused {
            lifecycle.restarts += u64::from(lifecycle.started_at.is_some());
            lifecycle.started_at = Some(now());
        }
        // An actor that was paused when it failed is still paused after its restart.
        let still_paused = phase == Phase::Running && *self.paused.borrow();
        lifecycle.phase = if still_paused { Phase::Paused } else { phase };
    }

    /// Records a failure, with the message whose handler it interrupted.
    pub fn fail(&self, reason: &str) {
        let mut lifecycle = lock(&self.lifecycle);
        let (message, span) = lifecycle.interrupted.take().unzip();
        let trace_id = span.flatten().map(|span| span.trace_id_hex().to_string());
        if lifecycle.failures.len() == MAX_FAILURES {
            lifecycle.failures.pop_back();
        }
        let reason = reason.chars().take(MAX_REASON).collect();
        lifecycle.failures.push_front(Failure { at: now(), reason, message, trace_id });
    }

    /// The last twenty failures, newest first.
    pub fn failures(&self) -> Vec<Failure> {
        lock(&self.lifecycle).failures.iter().cloned().collect()
    }

    /// Sets the allowed actions and the function that passes them to the supervisor.
    pub fn on_control(
        &self,
        allowed: AllowedControl,
        control: impl Fn(ControlAction, String) -> bool + Send + Sync + 'static,
    ) {
        lock(&self.lifecycle).control = Some((allowed, Arc::new(control)));
    }

    /// The actions that an administrator can request now.
    pub fn actions(&self) -> Vec<ControlAction> {
        use ControlAction::{Drain, Pause, Restart, Resume};
        let lifecycle = lock(&self.lifecycle);
        let Some((allowed, _)) = lifecycle.control else { return vec![] };
        match (allowed, lifecycle.phase) {
            (AllowedControl::Restart, _) | (_, Phase::Starting | Phase::Restarting(_)) => {
                vec![Restart]
            }
            (_, Phase::Running) => vec![Restart, Pause, Drain],
            (_, Phase::Paused) => vec![Resume, Restart, Drain],
            (_, Phase::Draining | Phase::Stopped) => vec![Resume, Restart],
        }
    }

    /// Requests an action from the supervisor.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] if the actor's state does not allow it, [`Error::Unavailable`] if the
    /// supervisor itself restarts.
    pub fn control(&self, action: ControlAction, reason: String) -> Result<()> {
        self.check_allowed(action)?;
        let control = lock(&self.lifecycle).control.as_ref().map(|(_, control)| control.clone());
        if control.is_some_and(|control| control(action, reason)) {
            Ok(())
        } else {
            Err(Error::Unavailable("the actor's supervisor is restarting".into()))
        }
    }

    /// Checks whether the actor's state allows an action.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] with the actions that are allowed now.
    pub fn check_allowed(&self, action: ControlAction) -> Result<()> {
        let allowed = self.actions();
        if allowed.contains(&action) {
            return Ok(());
        }
        let path = self.path();
        let hint = if allowed.is_empty() {
            "the actor cannot be controlled".to_owned()
        } else {
            let names: Vec<_> = allowed.iter().map(ControlAction::to_string).collect();
            format!("allowed now: {}", names.join(", "))
        };
        Err(Error::NotAllowed(format!("{path} does not allow {action}; {hint}")))
    }

    /// Sets the function that requests the actor's state when no message arrives.
    pub(crate) fn on_state_request(&self, request: impl Fn() + Send + Sync + 'static) {
        lock(&self.lifecycle).state_request = Some(Arc::new(request));
    }

    pub(super) fn state_request(&self) -> Option<Arc<dyn Fn() + Send + Sync>> {
        lock(&self.lifecycle).state_request.clone()
    }

    /// When it restarts, when it started, its number of restarts, and its last failure.
    pub(in crate::registry) fn lifecycle(
        &self,
    ) -> (Option<Timestamp>, Option<Timestamp>, u64, Option<Failure>) {
        let lifecycle = lock(&self.lifecycle);
        let restarts_at = match lifecycle.phase {
            Phase::Restarting(at) => Some(at),
            _ => None,
        };
        let last_failure = lifecycle.failures.front().cloned();
        (restarts_at, lifecycle.started_at, lifecycle.restarts, last_failure)
    }
}
