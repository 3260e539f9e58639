//! The status of an actor and what an administrator can do with it.

use jiff::Timestamp;
use serde::Serialize;
use strum::{Display, EnumString};
use utoipa::ToSchema;

/// The kind of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// Starts, restarts and stops its children.
    Supervisor,
    /// Handles one message at a time.
    Actor,
    /// Runs a loop.
    Service,
    /// Threads that share a queue.
    Pool,
    /// Handles many requests concurrently.
    HttpServer,
}

/// The phase of an actor's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is starting.
    Starting,
    /// It runs.
    Running,
    /// An administrator has paused it.
    Paused,
    /// It handles its waiting messages, refuses new ones, and then stops.
    Draining,
    /// It failed and restarts at this time.
    Restarting(Timestamp),
    /// It has ended.
    Stopped,
}

/// The actions that administrators may request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedControl {
    /// All of them.
    All,
    /// Restart only.
    Restart,
}

/// The status of an actor, as the inspector shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is starting.
    Starting,
    /// It waits for messages.
    Running,
    /// It handles a message.
    Busy,
    /// It has handled one message for more than two seconds.
    Stuck,
    /// Its mailbox is full; it refuses messages.
    Overloaded,
    /// An administrator has paused it.
    Paused,
    /// It handles its waiting messages, refuses new ones, and then stops.
    Draining,
    /// It failed and restarts after a backoff.
    Restarting,
    /// It has ended.
    Stopped,
}

/// An administrator's action on an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ControlAction {
    /// Kills the actor and starts a new one. The message that it handles is lost; waiting messages are
    /// handled by the new one.
    Restart,
    /// Handles no message until it is resumed; messages wait.
    Pause,
    /// Continues after a pause or drain.
    Resume,
    /// Handles the waiting messages, refuses new ones, and stops.
    Drain,
}

impl ControlAction {
    /// Whether it interrupts work, so that the administrator must give a reason.
    ///
    /// ```
    /// use shop_runtime::registry::ControlAction;
    ///
    /// assert!(ControlAction::Drain.is_destructive());
    /// assert!(!ControlAction::Resume.is_destructive());
    /// ```
    pub fn is_destructive(self) -> bool {
        self != ControlAction::Resume
    }
}

/// A failure of an actor.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Failure {
    /// When it failed.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why it failed.
    pub reason: String,
    /// The name of the message that it handled.
    pub message: Option<String>,
    /// The trace of that message.
    pub trace_id: Option<String>,
}

/// The message that an actor handles now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Current {
    /// The message's name.
    pub message: &'static str,
    /// When the handler started.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// How long the handler has run, in milliseconds.
    pub for_ms: f64,
    /// The trace of the message.
    pub trace_id: Option<String>,
}
