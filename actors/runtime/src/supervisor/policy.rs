//! When children are restarted.

use std::time::Duration;

use crate::registry::ActorKind;

/// How often a child may fail before its supervisor fails.
#[derive(Debug, Clone, Copy)]
pub struct RestartIntensity {
    /// The number of failures within `window` at which the supervisor fails.
    pub max_restarts: usize,
    /// The window in which failures are counted.
    pub window: Duration,
}

/// When failed children are restarted.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// The delay before the first restart. It doubles with each further failure.
    pub min_backoff: Duration,
    /// The maximum delay. A child that runs for twice this time resets its delay.
    pub max_backoff: Duration,
    /// The limit for actors and services.
    pub actors: RestartIntensity,
    /// The limit for supervisors. It is lower, because each of their failures stands for several.
    pub supervisors: RestartIntensity,
}

impl RestartPolicy {
    pub(super) fn intensity(&self, kind: ActorKind) -> RestartIntensity {
        if kind == ActorKind::Supervisor { self.supervisors } else { self.actors }
    }
}

impl Default for RestartPolicy {
    /// Delays from 20 ms to 5 s; ten failures of an actor in a minute, three of a supervisor in five.
    fn default() -> RestartPolicy {
        RestartPolicy {
            min_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_secs(5),
            actors: RestartIntensity { max_restarts: 10, window: Duration::from_secs(60) },
            supervisors: RestartIntensity { max_restarts: 3, window: Duration::from_secs(300) },
        }
    }
}

/// Which children restart when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Only the failed child.
    OneForOne,
    /// The failed child and those that were started after it, because they depend on it.
    RestForOne,
}
