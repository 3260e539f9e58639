//! The actor registry: the metrics, the state and the control of every actor of a process, by its path
//! in the tree. The inspector reads it.

mod actor_metrics;
mod status;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::Instant;

pub use actor_metrics::{ActorMetrics, ProcessingGuard, QueueGuard, State};
pub use status::{ActorKind, AllowedControl, ControlAction, Current, Failure, Phase, Status};
pub use view::{ActorView, Bucket, Details, History, Sort, Tree};

use crate::{Error, Result};
use actor_metrics::MAX_SAMPLES;

/// The maximum number of samples of all actors together, which bounds their memory.
const MAX_TOTAL_SAMPLES: usize = 900_000;

/// The registry as seen from one branch of the tree. Clones share their content.
#[derive(Debug, Clone)]
pub struct ActorRegistry {
    shared: Arc<RwLock<Shared>>,
    path: String,
}

#[derive(Debug, Default)]
struct Shared {
    actors: BTreeMap<String, Arc<ActorMetrics>>,
    /// The paths of nodes. A node does not see the actors of the others.
    nodes: Vec<String>,
    /// Whether messages are counted and timed.
    counts: bool,
}

impl ActorRegistry {
    /// A registry whose root has this name.
    pub fn new(root: &str) -> ActorRegistry {
        ActorRegistry::with_counting(root, true)
    }

    /// A registry whose root has this name. With `counts` false, messages are neither counted nor timed.
    pub fn with_counting(root: &str, counts: bool) -> ActorRegistry {
        let shared = Shared { counts, ..Shared::default() };
        ActorRegistry { shared: Arc::new(RwLock::new(shared)), path: root.to_owned() }
    }

    /// The branch of this name below this one.
    ///
    /// ```
    /// use shop_runtime::ActorRegistry;
    /// use shop_runtime::registry::ActorKind;
    ///
    /// let relay = ActorRegistry::new("app").branch("broker").branch("relay");
    /// let actor_metrics = relay.actor_metrics(ActorKind::Service, None, 1);
    /// assert_eq!(actor_metrics.path(), "app/broker/relay");
    /// ```
    pub fn branch(&self, name: &str) -> ActorRegistry {
        let (shared, path) = (self.shared.clone(), format!("{}/{name}", self.path));
        ActorRegistry { shared, path }
    }

    /// The branch of a node. It does not see the other nodes of the process.
    pub fn node(&self, name: &str) -> ActorRegistry {
        let node = self.branch(name);
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if !shared.nodes.contains(&node.path) {
            shared.nodes.push(node.path.clone());
        }
        drop(shared);
        node
    }

    /// The metrics of the actor at the root of this branch. The first call creates them. At most
    /// `capacity` messages wait; the actor handles `slots` messages concurrently.
    pub fn actor_metrics(
        &self,
        kind: ActorKind,
        capacity: Option<usize>,
        slots: usize,
    ) -> Arc<ActorMetrics> {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        let counts = shared.counts;
        let create =
            || Arc::new(ActorMetrics::new(self.path.clone(), kind, capacity, slots, counts));
        shared.actors.entry(self.path.clone()).or_insert_with(create).clone()
    }

    /// Marks all actors below the root of this branch as stopped.
    pub(crate) fn mark_stopped(&self) {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let prefix = format!("{}/", self.path);
        for actor_metrics in shared.actors.values() {
            let is_below = actor_metrics.path().starts_with(&prefix);
            if is_below && actor_metrics.kind() != ActorKind::Pool {
                actor_metrics.enter(Phase::Stopped);
            }
        }
    }

    /// The metrics of the actor at a path.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this branch sees.
    pub fn find(&self, path: &str) -> Result<Arc<ActorMetrics>> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let found = shared.actors.get(path).filter(|it| self.sees(&shared, it.path()));
        found.cloned().ok_or(Error::NotFound)
    }

    fn sees(&self, shared: &Shared, path: &str) -> bool {
        let is_in = |node: &String| {
            path.strip_prefix(node.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !shared.nodes.iter().any(|node| *node != self.path && is_in(node))
    }

    /// The metrics of all actors that this branch sees, in the order of their paths.
    pub fn all_metrics(&self) -> Vec<Arc<ActorMetrics>> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        shared.actors.values().filter(|it| self.sees(&shared, it.path())).cloned().collect()
    }

    /// All actors that this branch sees, in the order of their paths.
    pub fn actors(&self) -> Vec<ActorView> {
        self.all_metrics().iter().map(|actor_metrics| ActorView::of(actor_metrics)).collect()
    }

    /// All actors that this branch sees, as a tree.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there are none.
    pub fn tree(&self) -> Result<Tree> {
        let mut trees: BTreeMap<String, Tree> = BTreeMap::new();
        for actor in self.actors() {
            trees.insert(actor.path.clone(), Tree { actor, children: vec![] });
        }
        // From the last path to the first, so that a subtree is complete before it joins its parent.
        while let Some((path, mut tree)) = trees.pop_last() {
            tree.children.reverse();
            let parent = parent(&path, |parent| trees.contains_key(parent)).map(str::to_owned);
            match parent.and_then(|parent| trees.get_mut(&parent)) {
                Some(parent) => parent.children.push(tree),
                None => return Ok(tree),
            }
        }
        Err(Error::NotFound)
    }

    /// Everything known about the actor at a path. Waits up to 100 ms for its state.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this branch sees.
    pub async fn details(&self, path: &str) -> Result<Details> {
        let actor_metrics = self.find(path)?;
        let state = actor_metrics.state().await;
        let all: Vec<_> = self.all_metrics().iter().map(|it| it.path().to_owned()).collect();
        let is_child = |other: &String| {
            parent(other, |parent| all.iter().any(|path| path == parent)) == Some(path)
        };
        let children = all.iter().filter(|path| is_child(path)).cloned().collect();
        Ok(Details::of(&actor_metrics, state, children))
    }

    /// The samples of the last fifteen minutes of all actors that this branch sees, by their paths.
    pub fn history(&self) -> BTreeMap<String, History> {
        let history = |it: &Arc<ActorMetrics>| (it.path().to_owned(), History::of(it));
        self.all_metrics().iter().map(history).collect()
    }

    /// Takes a sample of every actor of the process. Called once a second.
    pub(crate) fn sample(&self, now: Instant) {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let kept = MAX_SAMPLES.min(MAX_TOTAL_SAMPLES / shared.actors.len().max(1)).max(1);
        for actor_metrics in shared.actors.values() {
            actor_metrics.sample(now, kept);
        }
    }
}

/// The path of an actor's parent: the longest prefix that exists.
fn parent(path: &str, exists: impl Fn(&str) -> bool) -> Option<&str> {
    let mut path = path;
    while let Some((prefix, _)) = path.rsplit_once('/') {
        if exists(prefix) {
            return Some(prefix);
        }
        path = prefix;
    }
    None
}
