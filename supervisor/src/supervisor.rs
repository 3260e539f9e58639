//! The supervisor: keeps its children running, one for one, and ends them in good order.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use shop_actors::Backoff;
use tokio::time::Instant;

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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use shop_actors::{Addr, Handled, Me, Owner, Reply, answer, hire};
    use shop_persistence::Error;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;

    /// An owner that does what it is told, and writes down its end.
    struct Moody {
        name: &'static str,
        ends: Arc<Mutex<Vec<&'static str>>>,
    }

    enum Msg {
        Greet(Reply<&'static str>),
        Panic(#[expect(dead_code, reason = "it dies with the owner")] Reply<()>),
        Fail(Reply<()>),
        Wait(Arc<Notify>, Reply<()>),
    }

    impl Owner for Moody {
        type Msg = Msg;

        async fn handle(&mut self, _: &Me<Msg>, message: Msg) -> Handled {
            match message {
                Msg::Greet(reply) => answer(reply, Ok(self.name)),
                Msg::Panic(_) => panic!("it was told to"),
                Msg::Fail(reply) => answer(reply, Err(Error::Bug("it was told to".into()))),
                Msg::Wait(notify, reply) => {
                    notify.notified().await;
                    answer(reply, Ok(()))
                }
            }
        }
    }

    impl Drop for Moody {
        fn drop(&mut self) {
            self.ends.lock().unwrap().push(self.name);
        }
    }

    type Ends = Arc<Mutex<Vec<&'static str>>>;

    fn child(name: &'static str, addr: &Addr<Msg>, ends: &Ends) -> Child {
        let (mailbox, ends) = (addr.mailboxes()[0].clone(), ends.clone());
        Child::new(name, move |supervisor| {
            let (mailbox, ends) = (mailbox.clone(), ends.clone());
            async move { hire(Moody { name, ends }, &mailbox, supervisor).await }
        })
    }

    async fn supervise(children: Vec<Child>) -> (ActorRef<Start>, JoinHandle<()>) {
        Actor::spawn(None, Supervisor { name: "test".into() }, children).await.unwrap()
    }

    fn address(capacity: usize) -> Addr<Msg> {
        Addr::new("moody", 1, capacity, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn whoever_makes_an_owner_panic_hears_of_it_and_the_next_is_answered() {
        let (addr, ends) = (address(8), Ends::default());
        let (root, ended) = supervise(vec![child("anna", &addr, &ends)]).await;
        for _ in 0..3 {
            assert!(matches!(addr.ask((), Msg::Panic).await, Err(Error::Crashed("moody"))));
            assert_eq!(addr.ask((), Msg::Greet).await.unwrap(), "anna");
            assert!(matches!(addr.ask((), Msg::Fail).await, Err(Error::Crashed("moody"))));
            assert_eq!(addr.ask((), Msg::Greet).await.unwrap(), "anna");
        }
        root.stop(None);
        ended.await.unwrap();
        assert_eq!(addr.figures()[0].depth, 0, "no message is still counted as waiting");
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_at_once() {
        let (addr, ends, notify) = (address(2), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let asks: Vec<_> = (0..4)
            .map(|_| {
                let (addr, notify) = (addr.clone(), notify.clone());
                tokio::spawn(async move { addr.ask((), |reply| Msg::Wait(notify, reply)).await })
            })
            .collect();
        while addr.figures()[0].rejected < 2 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(addr.ask((), Msg::Greet).await, Err(Error::Overloaded(_))));
        let mut refused = 0;
        for ask in asks {
            notify.notify_one();
            refused += u32::from(ask.await.unwrap().is_err());
            notify.notify_one();
        }
        assert_eq!(refused, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_any_more_is_not_done() {
        let (addr, ends, notify) = (address(8), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let busy = addr.ask((), |reply| Msg::Wait(notify.clone(), reply));
        let late = addr.ask((), Msg::Panic);
        let (busy, late) = tokio::join!(busy, late);
        assert!(matches!((busy, late), (Err(Error::Away(_)), Err(Error::Away(_)))));
        notify.notify_one();
        assert_eq!(addr.ask((), Msg::Greet).await.unwrap(), "anna");
        assert_eq!(addr.figures()[0].expired, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_gives_up_on_a_child_that_dies_too_often() {
        let (addr, ends) = (address(8), Ends::default());
        let (_root, ended) = supervise(vec![child("anna", &addr, &ends)]).await;
        let mut deaths = 0;
        while !ended.is_finished() {
            addr.ask((), Msg::Panic).await.expect_err("it panics");
            deaths += 1;
        }
        assert!((MOST_DEATHS + 1..MOST_DEATHS + 4).contains(&deaths), "{deaths}");
    }

    #[tokio::test]
    async fn children_end_in_the_reverse_order_of_their_start_after_what_was_asked() {
        let (first, second, ends) = (address(8), address(8), Ends::default());
        let children = vec![child("first", &first, &ends), child("second", &second, &ends)];
        let (root, ended) = supervise(children).await;
        let asked = first.ask((), Msg::Greet);
        root.stop(None);
        assert_eq!(asked.await.unwrap(), "first");
        ended.await.unwrap();
        assert_eq!(*ends.lock().unwrap(), ["second", "first"]);
    }
}
