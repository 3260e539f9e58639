//! The root of a tree of actors.

use ractor::{ActorRef, concurrency::JoinHandle};

use super::{Child, Msg, RestartPolicy, Strategy, Supervisor};
use crate::actor::HandlerError;
use crate::registry::{ActorKind, ActorRegistry, Phase};

/// The supervisor at the root of a tree. It ends when it is stopped or when a child fails too often.
#[derive(Debug)]
pub struct Root {
    supervisor: ActorRef<Msg>,
    /// `None` once it has ended.
    task: Option<JoinHandle<()>>,
}

impl Root {
    /// Starts `children` in order. Each restarts independently of the others.
    ///
    /// # Errors
    /// If a child failed to start more often than the policy permits.
    pub async fn start(
        registry: &ActorRegistry,
        policy: RestartPolicy,
        children: Vec<Child>,
    ) -> Result<Root, HandlerError> {
        Root::with_strategy(registry, policy, Strategy::OneForOne, children).await
    }

    /// Starts `children` in order; `strategy` decides which of them restart together.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn with_strategy(
        registry: &ActorRegistry,
        policy: RestartPolicy,
        strategy: Strategy,
        children: Vec<Child>,
    ) -> Result<Root, HandlerError> {
        let actor_metrics = registry.actor_metrics(ActorKind::Supervisor, None, 1);
        actor_metrics.enter(Phase::Running);
        let supervisor = Supervisor { actor_metrics, strategy, policy };
        let (supervisor, task) = ractor::Actor::spawn(None, supervisor, children).await?;
        Ok(Root { supervisor, task: Some(task) })
    }

    /// Resolves when the tree has ended, by itself or after [`stop`](Self::stop). Cancel safe.
    pub async fn ended(&mut self) {
        if let Some(task) = &mut self.task {
            task.await.ok();
        }
        self.task = None;
    }

    /// Whether the tree has ended.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(|task| task.is_finished())
    }

    /// Stops the children in reverse order of their start, each after its waiting messages, and
    /// returns when all have ended.
    pub async fn stop(mut self) {
        self.supervisor.stop(None);
        self.ended().await;
    }
}
