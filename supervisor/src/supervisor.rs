//! The supervisor: keeps its children running, one for one, and ends them in good order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use shop_actors::Backoff;

/// A child that dies more often than this within [`WINDOW`] cannot be helped here: its supervisor gives up.
const MOST_DEATHS: usize = 10;

/// How long a death counts.
const WINDOW: Duration = Duration::from_secs(60);

/// How long a child may take to end in good order before it is cut off.
pub const GRACE: Duration = Duration::from_secs(10);

/// Something to keep running: its name, and how it is started, also anew.
pub struct Child {
    name: String,
    start: Box<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send>,
}

impl Child {
    /// A child that `start` starts under the supervisor given to it.
    pub fn new<F>(name: impl Into<String>, start: impl Fn(ActorCell) -> F + Send + 'static) -> Child
    where
        F: Future<Output = Result<ActorCell, SpawnErr>> + Send + 'static,
    {
        Child { name: name.into(), start: Box::new(move |supervisor| Box::pin(start(supervisor))) }
    }

    /// A child that is itself a supervisor, of the children that `children` makes at each start.
    pub fn tree(
        name: impl Into<String>,
        children: impl Fn() -> anyhow::Result<Vec<Child>> + Send + Sync + 'static,
    ) -> Child {
        let name = name.into();
        Child::new(name.clone(), move |supervisor| {
            let children = children().map_err(|error| SpawnErr::StartupFailed(error.into()));
            let name = name.clone();
            async move {
                let (tree, _) =
                    Actor::spawn_linked(None, Supervisor { name }, children?, supervisor).await?;
                Ok(tree.get_cell())
            }
        })
    }
}

/// Keeps its children running. A child that dies is started anew, after a wait that doubles; one that dies too
/// often takes its supervisor with it, whose own supervisor starts the whole branch anew, or, at the root, ends the process.
pub struct Supervisor {
    /// Stands before the names of its children in the log.
    pub name: String,
}

/// The one message: it is time to start this child again.
pub struct Start(usize);

/// A child and its life.
pub struct Kept {
    child: Child,
    cell: Option<ActorCell>,
    backoff: Backoff,
    deaths: VecDeque<Instant>,
}

impl Kept {
    fn new(child: Child) -> Kept {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        Kept { child, cell: None, backoff, deaths: VecDeque::new() }
    }

    /// Notes a death; whether there were too many lately.
    fn died(&mut self) -> bool {
        self.cell = None;
        self.deaths.push_back(Instant::now());
        self.deaths.retain(|death| death.elapsed() < WINDOW);
        self.deaths.len() > MOST_DEATHS
    }
}

impl Supervisor {
    /// Starts a child; when that fails it counts as a death.
    async fn start(
        &self,
        me: &ActorRef<Start>,
        kept: &mut [Kept],
        index: usize,
    ) -> Result<(), ActorProcessingErr> {
        match (kept[index].child.start)(me.get_cell()).await {
            Ok(cell) => {
                kept[index].cell = Some(cell);
                Ok(())
            }
            Err(error) => self.bury(me, &mut kept[index], index, &error.to_string()),
        }
    }

    fn bury(
        &self,
        me: &ActorRef<Start>,
        kept: &mut Kept,
        index: usize,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let child = format!("{}/{}", self.name, kept.child.name);
        if kept.died() {
            let reason = format!(
                "{child} died {} times in a minute, at last of: {reason}",
                kept.deaths.len()
            );
            tracing::error!(actor = child, reason, "its supervisor gives up");
            return Err(reason.into());
        }
        let wait = kept.backoff.pause();
        tracing::error!(actor = child, reason, restart_ms = wait.as_millis(), "an actor died");
        drop(me.send_after(wait, move || Start(index)));
        Ok(())
    }
}

impl Actor for Supervisor {
    type Msg = Start;
    type State = Vec<Kept>;
    type Arguments = Vec<Child>;

    async fn pre_start(
        &self,
        me: ActorRef<Start>,
        children: Vec<Child>,
    ) -> Result<Vec<Kept>, ActorProcessingErr> {
        let mut kept: Vec<_> = children.into_iter().map(Kept::new).collect();
        for index in 0..kept.len() {
            self.start(&me, &mut kept, index).await?;
        }
        Ok(kept)
    }

    async fn handle(
        &self,
        me: ActorRef<Start>,
        Start(index): Start,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        self.start(&me, kept, index).await
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Start>,
        event: SupervisionEvent,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        // Nobody but this supervisor ends its children, so an end without a failure (a kill) is a death too.
        let (dead, reason) = match event {
            SupervisionEvent::ActorFailed(dead, error) => (dead, error.to_string()),
            SupervisionEvent::ActorTerminated(dead, _, reason) => {
                (dead, reason.unwrap_or_else(|| "it ended".into()))
            }
            _ => return Ok(()),
        };
        let is_dead =
            |kept: &Kept| kept.cell.as_ref().is_some_and(|cell| cell.get_id() == dead.get_id());
        match kept.iter().position(is_dead) {
            Some(index) => self.bury(&me, &mut kept[index], index, &reason),
            None => Ok(()),
        }
    }

    /// Ends the children, the last started first, each after what is already asked of it is done.
    async fn post_stop(
        &self,
        _: ActorRef<Start>,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        for Kept { child, cell, .. } in kept.iter_mut().rev() {
            let Some(cell) = cell.take() else { continue };
            if cell.drain_and_wait(Some(2 * GRACE)).await.is_err() {
                tracing::warn!(actor = format!("{}/{}", self.name, child.name), "cut off");
                cell.kill();
            }
        }
        Ok(())
    }
}
