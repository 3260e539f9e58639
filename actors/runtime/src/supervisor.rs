//! The supervisor: keeps its children running, one for one or the rest for one, and ends them in good order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::{Action, ActorKind, ActorMetrics, ActorRegistry, Control, Phase};
use crate::{Actor, Backoff, Mailbox, Service, now, spawn_actor, spawn_service};
use futures::future::BoxFuture;
use jiff::SignedDuration;
use ractor::{ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::time::Instant;

/// How long a child may take to end in good order before it is cut off.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a child that is killed may take to hear of it: one that never lets go is left to itself.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How often a child may die before its supervisor gives up.
#[derive(Debug, Clone, Copy)]
pub struct RestartIntensity {
    /// At so many deaths.
    pub deaths: usize,
    /// Within so long.
    pub window: Duration,
}

/// When children are started again, and when no more.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The wait after a first death; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait. A child that has run for twice as long is stable: the next wait is the first again.
    pub longest_wait: Duration,
    /// What is too often for an actor.
    pub actors: RestartIntensity,
    /// What is too often for a branch: its death stands for many.
    pub branches: RestartIntensity,
}

/// Who else is started again when a child has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Those that were started after it, because they stand on it.
    RestForOne,
}

type Started = Result<ActorCell, SpawnErr>;

/// Something to keep running: how it is started, also anew, and what an administrator may do with it.
pub struct Child {
    actor_metrics: Arc<ActorMetrics>,
    /// What lies below it, if it is a supervisor itself.
    branch: Option<ActorRegistry>,
    steering: Option<Control>,
    start: Box<dyn Fn(ActorCell) -> BoxFuture<'static, Started> + Send + Sync>,
}

impl Child {
    /// A child that `start` starts under the supervisor given to it.
    fn new<F>(
        actor_metrics: &Arc<ActorMetrics>,
        start: impl Fn(Arc<ActorMetrics>, ActorCell) -> F + Send + Sync + 'static,
    ) -> Child
    where
        F: Future<Output = Started> + Send + 'static,
    {
        let (actor_metrics, measures) = (actor_metrics.clone(), actor_metrics.clone());
        let start = move |supervisor| -> BoxFuture<'static, Started> {
            Box::pin(start(measures.clone(), supervisor))
        };
        Child { actor_metrics, branch: None, steering: Some(Control::All), start: Box::new(start) }
    }

    /// An owner, who empties this mailbox.
    pub fn owner<O: Actor>(
        mailbox: &Arc<Mailbox<O::Msg>>,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Child {
        let emptied = mailbox.clone();
        Child::new(mailbox.actor_metrics(), move |_, supervisor| {
            let (owner, mailbox) = (make(), emptied.clone());
            async move { spawn_actor(owner, &mailbox, supervisor).await }
        })
    }

    /// A service, which has `grace` to end in good order.
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

    /// The same, but administrators may only have it started afresh.
    pub fn restart_only(self) -> Child {
        Child { steering: Some(Control::Restart), ..self }
    }

    /// The same, but it runs as long as its supervisor does.
    pub fn uncontrolled(self) -> Child {
        Child { steering: None, ..self }
    }

    /// A child that is itself a supervisor, of the children that `children` makes at each start.
    pub fn branch(
        branch: &ActorRegistry,
        strategy: Strategy,
        policy: Policy,
        children: impl Fn() -> Result<Vec<Child>, ActorProcessingErr> + Send + Sync + 'static,
    ) -> Child {
        let actor_metrics = branch.actor_metrics(ActorKind::Supervisor, None, 1);
        let start = move |actor_metrics, supervisor| {
            let children = children().map_err(SpawnErr::StartupFailed);
            async move {
                let branch = Supervisor { actor_metrics, strategy, policy };
                let (branch, _) =
                    ractor::Actor::spawn_linked(None, branch, children?, supervisor).await?;
                Ok(branch.get_cell())
            }
        };
        Child { branch: Some(branch.clone()), ..Child::new(&actor_metrics, start).restart_only() }
    }
}

/// Keeps its children running. A child that dies, or that cannot be started, is started anew, after a wait that doubles;
/// one that dies too often takes its supervisor with it, whose own supervisor starts the whole branch anew, or, at the
/// root, ends the process.
pub struct Supervisor {
    /// Its own measures, which know its place in the tree.
    pub actor_metrics: Arc<ActorMetrics>,
    /// Who else is started again.
    pub strategy: Strategy,
    /// When, and when no more.
    pub policy: Policy,
}

/// What a supervisor tells itself, or an administrator tells it. A child is named by its place.
#[derive(Debug, strum::IntoStaticStr)]
pub enum Msg {
    /// It is time to start this child again.
    Start(usize),
    /// An administrator wants this of a child, for a reason.
    Steer(usize, Action, String),
    /// This child was killed a while ago.
    KillTimeout(usize, ActorId),
}

/// A child and its life.
pub struct Kept {
    child: Child,
    cell: Option<ActorCell>,
    backoff: Backoff,
    deaths: VecDeque<Instant>,
    /// What becomes of it when it ends.
    then: ExitIntent,
    /// Whether a start is due already.
    start_is_due: bool,
}

/// What becomes of a child when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ExitIntent {
    /// Nobody asked it to: it died.
    Died,
    /// It is started afresh, as an administrator wants for this reason.
    Restarts(String),
    /// It stays away until an administrator has it go on.
    Stays(Phase),
}

impl Kept {
    fn new(child: Child, policy: Policy) -> Kept {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        let deaths = VecDeque::new();
        Kept { child, cell: None, backoff, deaths, then: ExitIntent::Died, start_is_due: false }
    }

    fn actor_metrics(&self) -> &Arc<ActorMetrics> {
        &self.child.actor_metrics
    }

    fn is_away(&self) -> bool {
        self.cell.is_none()
    }

    /// Notes a death; whether there were too many lately.
    fn died(&mut self, policy: &Policy) -> bool {
        let RestartIntensity { deaths, window } = match self.actor_metrics().kind() {
            ActorKind::Supervisor => policy.branches,
            _ => policy.actors,
        };
        self.deaths.push_back(Instant::now());
        self.deaths.retain(|death| death.elapsed() < window);
        self.deaths.len() >= deaths
    }

    /// Ends it after what is already asked of it is done.
    async fn end(&mut self) {
        let actor_metrics = self.child.actor_metrics.clone();
        let Some(cell) = self.cell.take() else { return };
        actor_metrics.pause(false); // whoever is paused would never come to an end
        if cell.drain_and_wait(Some(2 * GRACE)).await.is_err() {
            tracing::warn!(actor = actor_metrics.path(), "cut off");
            cell.kill();
        }
        match self.then {
            ExitIntent::Stays(phase) => actor_metrics.enter(phase),
            _ => {
                self.then = ExitIntent::Died;
                actor_metrics.enter(Phase::Stopped);
            }
        }
    }
}

impl Supervisor {
    /// Starts a child, and in a branch where order matters those behind it that were ended with it.
    async fn start_from(
        &self,
        me: &ActorRef<Msg>,
        kept: &mut [Kept],
        index: usize,
    ) -> Result<(), ActorProcessingErr> {
        let last = match self.strategy {
            Strategy::OneForOne => index + 1,
            Strategy::RestForOne => kept.len(),
        };
        for index in index..last {
            if !kept[index].start_is_due {
                self.start(me, kept, index).await?;
            }
        }
        Ok(())
    }

    /// Starts a child, unless it runs, or has to stay away, or to wait for one before it. When that fails it counts as a
    /// death.
    async fn start(
        &self,
        me: &ActorRef<Msg>,
        kept: &mut [Kept],
        index: usize,
    ) -> Result<(), ActorProcessingErr> {
        let must_wait = self.strategy == Strategy::RestForOne
            && kept[..index]
                .iter()
                .any(|before| before.is_away() && before.then == ExitIntent::Died);
        if must_wait || !kept[index].is_away() || matches!(kept[index].then, ExitIntent::Stays(_)) {
            return Ok(());
        }
        kept[index].actor_metrics().enter(Phase::Starting);
        match (kept[index].child.start)(me.get_cell()).await {
            Ok(cell) => {
                kept[index].cell = Some(cell);
                kept[index].actor_metrics().enter(Phase::Running);
                Ok(())
            }
            Err(error) => self.on_exit(me, kept, index, &error.to_string()).await,
        }
    }

    /// What becomes of a child that has ended.
    async fn on_exit(
        &self,
        me: &ActorRef<Msg>,
        kept: &mut [Kept],
        index: usize,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        kept[index].cell = None;
        if let Some(branch) = &kept[index].child.branch {
            branch.end(); // a branch that dies takes all with it, at once
        }
        let then = std::mem::replace(&mut kept[index].then, ExitIntent::Died);
        let actor = kept[index].actor_metrics().path().to_owned();
        if let ExitIntent::Stays(phase) = then {
            kept[index].actor_metrics().enter(phase);
            kept[index].then = ExitIntent::Stays(phase);
            tracing::warn!(actor, phase = ?phase, "an actor ended, as an administrator wanted");
            return Ok(());
        }
        if self.strategy == Strategy::RestForOne {
            for rest in kept[index + 1..].iter_mut().rev() {
                rest.end().await;
            }
        }
        let kept = &mut kept[index];
        if let ExitIntent::Restarts(reason) = then {
            kept.actor_metrics().pause(false);
            kept.actor_metrics().close(false);
            kept.actor_metrics().fail(&format!("restarted by an administrator: {reason}"));
            tracing::warn!(actor, reason, "an actor is started afresh, as an administrator wanted");
            kept.start_is_due = true;
            me.send_message(Msg::Start(index)).ok();
            return Ok(());
        }
        kept.actor_metrics().fail(reason);
        if kept.died(&self.policy) {
            let (deaths, kind) = (kept.deaths.len(), kept.actor_metrics().kind());
            let reason =
                format!("{actor} died {deaths} times in a short time, at last of: {reason}");
            tracing::error!(actor, reason, ?kind, "its supervisor gives up");
            kept.actor_metrics().enter(Phase::Stopped);
            return Err(reason.into());
        }
        let wait = kept.backoff.pause();
        tracing::error!(actor, reason, restart_ms = wait.as_millis(), "an actor died");
        let wait_from_now = SignedDuration::try_from(wait).unwrap_or_default();
        let next_try_at = now().saturating_add(wait_from_now).unwrap_or_else(|_| now());
        kept.actor_metrics().enter(Phase::Restarting(next_try_at));
        kept.start_is_due = true;
        drop(me.send_after(wait, move || Msg::Start(index)));
        Ok(())
    }

    /// Does what an administrator wants of a child.
    async fn control(
        &self,
        me: &ActorRef<Msg>,
        kept: &mut [Kept],
        index: usize,
        action: Action,
        reason: String,
    ) -> Result<(), ActorProcessingErr> {
        let child = &mut kept[index];
        let actor_metrics = child.actor_metrics().clone();
        let is_owner = actor_metrics.kind() == ActorKind::Actor;
        match action {
            Action::Restart => {
                let Some(cell) = child.cell.clone() else {
                    actor_metrics.pause(false);
                    actor_metrics.close(false);
                    child.then = ExitIntent::Died;
                    child.start_is_due = false;
                    return self.start_from(me, kept, index).await;
                };
                child.then = ExitIntent::Restarts(reason);
                end(cell, is_owner, me.clone(), index);
            }
            Action::Pause if is_owner => {
                actor_metrics.pause(true);
                actor_metrics.enter(Phase::Paused);
            }
            Action::Pause => {
                child.then = ExitIntent::Stays(Phase::Paused);
                match &child.cell {
                    Some(cell) => {
                        actor_metrics.enter(Phase::Draining);
                        end(cell.clone(), false, me.clone(), index);
                    }
                    None => actor_metrics.enter(Phase::Paused),
                }
            }
            Action::Resume => {
                actor_metrics.close(false);
                actor_metrics.pause(false);
                match (&child.cell, &child.then) {
                    (None, _) => {
                        child.then = ExitIntent::Died;
                        return self.start_from(me, kept, index).await;
                    }
                    // It is on its way out: the next one goes on.
                    (Some(_), ExitIntent::Stays(_)) => {
                        child.then =
                            ExitIntent::Restarts("it was resumed while it was ending".into());
                    }
                    (Some(_), _) => actor_metrics.enter(Phase::Running),
                }
            }
            Action::Drain => {
                actor_metrics.close(true);
                actor_metrics.pause(false);
                child.then = ExitIntent::Stays(Phase::Stopped);
                match &child.cell {
                    Some(cell) => {
                        actor_metrics.enter(Phase::Draining);
                        drop(cell.drain());
                    }
                    None => actor_metrics.enter(Phase::Stopped),
                }
            }
        }
        Ok(())
    }
}

/// Ends an actor: at once, or in good order if it can. One that never lets go is left to itself.
fn end(cell: ActorCell, at_once: bool, supervisor: ActorRef<Msg>, index: usize) {
    tokio::spawn(async move {
        if !at_once {
            cell.drain_and_wait(Some(2 * GRACE)).await.ok();
        }
        cell.kill();
        let id = cell.get_id();
        drop(supervisor.send_after(LAST_PATIENCE, move || Msg::KillTimeout(index, id)));
    });
}

impl ractor::Actor for Supervisor {
    type Msg = Msg;
    type State = Vec<Kept>;
    type Arguments = Vec<Child>;

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        children: Vec<Child>,
    ) -> Result<Vec<Kept>, ActorProcessingErr> {
        let mut kept: Vec<_> =
            children.into_iter().map(|child| Kept::new(child, self.policy)).collect();
        for (index, Kept { child, .. }) in kept.iter().enumerate() {
            // What an administrator wanted of the one before ended with its branch.
            child.actor_metrics.pause(false);
            child.actor_metrics.close(false);
            if let Some(steering) = child.steering {
                let me = me.clone();
                child.actor_metrics.steered_by(steering, move |action, reason| {
                    me.send_message(Msg::Steer(index, action, reason)).is_ok() // it may be ending
                });
            }
        }
        for index in 0..kept.len() {
            self.start(&me, &mut kept, index).await?;
        }
        Ok(kept)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        let name = (&message).into();
        let handling = async {
            match message {
                Msg::Start(index) => {
                    kept[index].start_is_due = false;
                    self.start_from(&me, kept, index).await
                }
                Msg::Steer(index, action, reason) => {
                    self.control(&me, kept, index, action, reason).await
                }
                Msg::KillTimeout(index, id) => {
                    let is_still_there =
                        kept[index].cell.as_ref().is_some_and(|cell| cell.get_id() == id);
                    match is_still_there {
                        true => self.on_exit(&me, kept, index, "it did not let go").await,
                        false => Ok(()),
                    }
                }
            }
        };
        self.actor_metrics.measure(name, handling).await
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        // Nobody but this supervisor ends its children, so an end without a failure (a kill) is a death too.
        let (dead, reason, failed) = match event {
            SupervisionEvent::ActorFailed(dead, error) => (dead, error.to_string(), true),
            SupervisionEvent::ActorTerminated(dead, _, reason) => {
                (dead, reason.unwrap_or_else(|| "it ended".into()), false)
            }
            _ => return Ok(()),
        };
        let is_dead =
            |kept: &Kept| kept.cell.as_ref().is_some_and(|cell| cell.get_id() == dead.get_id());
        match kept.iter().position(is_dead) {
            Some(index) if failed && matches!(kept[index].then, ExitIntent::Stays(_)) => {
                kept[index].actor_metrics().fail(&reason); // on its way out, but not in good order
                self.actor_metrics.measure("End", self.on_exit(&me, kept, index, &reason)).await
            }
            Some(index) => {
                self.actor_metrics.measure("End", self.on_exit(&me, kept, index, &reason)).await
            }
            None => Ok(()),
        }
    }

    /// Ends the children, the last started first, each after what is already asked of it is done.
    async fn post_stop(
        &self,
        _: ActorRef<Msg>,
        kept: &mut Vec<Kept>,
    ) -> Result<(), ActorProcessingErr> {
        for kept in kept.iter_mut().rev() {
            kept.end().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use crate::Error;
    use crate::registry::{ActorView, Status};
    use crate::{ActorContext, Addr, HandlerResult, Reply, respond};
    use strum::IntoStaticStr;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// An owner that does what it is told, and writes down its end.
    struct Moody {
        name: &'static str,
        ends: Arc<Mutex<Vec<&'static str>>>,
    }

    #[derive(IntoStaticStr)]
    enum Ask {
        Greet(Reply<&'static str>),
        Panic(#[expect(dead_code, reason = "it dies with the owner")] Reply<()>),
        Fail(Reply<()>),
        Wait(Arc<Notify>, Reply<()>),
    }

    impl Actor for Moody {
        type Msg = Ask;

        async fn handle(&mut self, _: &ActorContext<Ask>, message: Ask) -> HandlerResult {
            match message {
                Ask::Greet(reply) => respond(reply, Ok(self.name)),
                Ask::Panic(_) => panic!("it was told to"),
                Ask::Fail(_reply) => Err("it was told to".into()),
                Ask::Wait(notify, reply) => {
                    notify.notified().await;
                    respond(reply, Ok(()))
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

    const POLICY: Policy = Policy {
        first_wait: Duration::from_millis(20),
        longest_wait: Duration::from_secs(5),
        actors: RestartIntensity { deaths: 10, window: Duration::from_secs(60) },
        branches: RestartIntensity { deaths: 3, window: Duration::from_secs(300) },
    };

    fn child(name: &'static str, addr: &Addr<Ask>, ends: &Ends) -> Child {
        let ends = ends.clone();
        Child::owner(&addr.mailboxes()[0], move || Moody { name, ends: ends.clone() })
    }

    async fn supervise(children: Vec<Child>) -> (ActorRef<Msg>, JoinHandle<()>) {
        supervise_by(Strategy::OneForOne, children).await
    }

    async fn supervise_by(
        strategy: Strategy,
        children: Vec<Child>,
    ) -> (ActorRef<Msg>, JoinHandle<()>) {
        let actor_metrics =
            ActorRegistry::new("test").actor_metrics(ActorKind::Supervisor, None, 1);
        let supervisor = Supervisor { actor_metrics, strategy, policy: POLICY };
        ractor::Actor::spawn(None, supervisor, children).await.unwrap()
    }

    fn address(capacity: usize) -> Addr<Ask> {
        Addr::new(&ActorRegistry::new("test"), "moody", 1, capacity, Duration::from_secs(5))
    }

    fn actor_metrics(addr: &Addr<Ask>) -> &Arc<ActorMetrics> {
        addr.mailboxes()[0].actor_metrics()
    }

    /// What the inspector shows of the one owner there.
    fn reading(actor_metrics: &Arc<ActorMetrics>) -> ActorView {
        ActorView::of(actor_metrics)
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn whoever_makes_an_owner_panic_hears_of_it_and_the_next_is_answered() {
        let (addr, ends) = (address(8), Ends::default());
        let (root, ended) = supervise(vec![child("anna", &addr, &ends)]).await;
        for _ in 0..3 {
            assert!(matches!(addr.ask((), Ask::Panic).await, Err(Error::Crashed("moody"))));
            assert_eq!(addr.ask((), Ask::Greet).await.unwrap(), "anna");
            assert!(matches!(addr.ask((), Ask::Fail).await, Err(Error::Crashed("moody"))));
            assert_eq!(addr.ask((), Ask::Greet).await.unwrap(), "anna");
        }
        root.stop(None);
        ended.await.unwrap();
        assert_eq!(actor_metrics(&addr).depth(), 0, "no message is still counted as waiting");
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_at_once() {
        let (addr, ends, notify) = (address(2), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let asks: Vec<_> = (0..4)
            .map(|_| {
                let (addr, notify) = (addr.clone(), notify.clone());
                tokio::spawn(async move { addr.ask((), |reply| Ask::Wait(notify, reply)).await })
            })
            .collect();
        while reading(actor_metrics(&addr)).rejected < 2 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(addr.ask((), Ask::Greet).await, Err(Error::Overloaded(_))));
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
        let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
        let late = addr.ask((), Ask::Panic);
        let (busy, late) = tokio::join!(busy, late);
        assert!(matches!((busy, late), (Err(Error::Unavailable(_)), Err(Error::Unavailable(_)))));
        notify.notify_one();
        assert_eq!(addr.ask((), Ask::Greet).await.unwrap(), "anna");
        assert_eq!(reading(actor_metrics(&addr)).expired, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_gives_up_on_a_child_that_dies_too_often() {
        let (addr, ends) = (address(8), Ends::default());
        let (_root, ended) = supervise(vec![child("anna", &addr, &ends)]).await;
        let mut deaths = 0;
        while !ended.is_finished() {
            addr.ask((), Ask::Panic).await.expect_err("it panics");
            deaths += 1;
        }
        assert!((10..13).contains(&deaths), "{deaths}");
    }

    #[tokio::test]
    async fn children_end_in_the_reverse_order_of_their_start_after_what_was_asked() {
        let (first, second, ends) = (address(8), address(8), Ends::default());
        let children = vec![child("first", &first, &ends), child("second", &second, &ends)];
        let (root, ended) = supervise(children).await;
        let asked = first.ask((), Ask::Greet);
        root.stop(None);
        assert_eq!(asked.await.unwrap(), "first");
        ended.await.unwrap();
        assert_eq!(*ends.lock().unwrap(), ["second", "first"]);
    }

    #[tokio::test]
    async fn what_waits_in_a_mailbox_survives_its_owner() {
        let (addr, ends, notify) = (address(8), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
        let (fatal, next) = (addr.ask((), Ask::Panic), addr.ask((), Ask::Greet));
        let all = async { tokio::join!(busy, fatal, next) };
        let (all, ()) = tokio::join!(all, async {
            until(|| actor_metrics(&addr).depth() == 3).await;
            notify.notify_one();
        });
        assert!(matches!(all, (Ok(()), Err(Error::Crashed(_)), Ok("anna"))), "{all:?}");
        let reading = reading(actor_metrics(&addr));
        assert_eq!((reading.handled, reading.lost, reading.restarts), (2, 1, 1));
        let failure = &actor_metrics(&addr).failures()[0];
        assert_eq!(failure.message.as_deref(), Some("Panic"));
        assert!(failure.reason.contains("it was told to"), "{failure:?}");
    }

    #[tokio::test]
    async fn a_stuck_owner_is_shown_and_a_restart_brings_it_back() {
        let (addr, ends, never) = (address(8), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let hung = addr.ask((), |reply| Ask::Wait(never.clone(), reply));
        let seen = async {
            until(|| reading(actor_metrics(&addr)).status == Status::Stuck).await;
            let current = reading(actor_metrics(&addr)).current.unwrap();
            assert_eq!(current.message, "Wait");
            assert!((2000.0..5000.0).contains(&current.for_ms), "{current:?}");
            actor_metrics(&addr).control(Action::Restart, "it hangs".into()).unwrap();
            addr.ask((), Ask::Greet).await
        };
        let (hung, greeted) = tokio::join!(hung, seen);
        assert!(matches!(hung, Err(Error::Crashed(_))), "{hung:?}");
        assert_eq!(greeted.unwrap(), "anna");
        let failures = actor_metrics(&addr).failures();
        assert_eq!(failures[0].reason, "restarted by an administrator: it hangs");
    }

    #[tokio::test]
    async fn a_paused_owner_handles_nothing_until_it_is_resumed() {
        let (addr, ends) = (address(8), Ends::default());
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        actor_metrics(&addr).control(Action::Pause, "to look".into()).unwrap();
        until(|| reading(actor_metrics(&addr)).status == Status::Paused).await;
        assert!(actor_metrics(&addr).must_allow(Action::Pause).is_err());
        let asked = addr.ask((), Ask::Greet);
        let resumed = async {
            until(|| actor_metrics(&addr).depth() == 1).await;
            assert_eq!(reading(actor_metrics(&addr)).handled, 0);
            actor_metrics(&addr).control(Action::Resume, String::new()).unwrap();
        };
        let (greeted, ()) = tokio::join!(asked, resumed);
        assert_eq!(greeted.unwrap(), "anna");
    }

    #[tokio::test]
    async fn a_drained_owner_works_off_what_waits_and_takes_nothing_new() {
        let (addr, ends, notify) = (address(8), Ends::default(), Arc::new(Notify::new()));
        let (_root, _) = supervise(vec![child("anna", &addr, &ends)]).await;
        let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
        let waits = addr.ask((), Ask::Greet);
        let drained = async {
            until(|| actor_metrics(&addr).depth() == 2).await;
            actor_metrics(&addr).control(Action::Drain, "for good".into()).unwrap();
            until(|| reading(actor_metrics(&addr)).status == Status::Draining).await;
            assert!(matches!(addr.ask((), Ask::Greet).await, Err(Error::Unavailable(_))));
            notify.notify_one();
        };
        let (busy, waits, ()) = tokio::join!(busy, waits, drained);
        assert!(busy.is_ok() && waits.is_ok());
        until(|| reading(actor_metrics(&addr)).status == Status::Stopped).await;
        actor_metrics(&addr).control(Action::Resume, String::new()).unwrap();
        until(|| reading(actor_metrics(&addr)).status == Status::Running).await;
        assert_eq!(addr.ask((), Ask::Greet).await.unwrap(), "anna");
    }

    /// A service that fails at its start, or dies, when it is told to.
    #[derive(Clone)]
    struct Fragile {
        starts: Arc<AtomicUsize>,
        dies: Arc<Notify>,
    }

    impl Service for Fragile {
        async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
            self.starts.fetch_add(1, Relaxed);
            tokio::select! {
                () = self.dies.notified() => Err("it was told to".into()),
                () = stop.cancelled() => Ok(()),
            }
        }
    }

    fn fragile(name: &str) -> (Child, Fragile) {
        let service = Fragile { starts: Arc::default(), dies: Arc::default() };
        let actor_metrics =
            ActorRegistry::new("test").branch(name).actor_metrics(ActorKind::Service, None, 1);
        (Child::service(&actor_metrics, GRACE, service.clone()), service)
    }

    #[tokio::test]
    async fn where_order_matters_those_behind_the_dead_are_started_again_after_it() {
        let ((first, a), (second, b), (third, c)) = (fragile("a"), fragile("b"), fragile("c"));
        let (_root, _) = supervise_by(Strategy::RestForOne, vec![first, second, third]).await;
        let starts = || [&a, &b, &c].map(|service| service.starts.load(Relaxed));
        until(|| starts() == [1, 1, 1]).await;
        b.dies.notify_one();
        until(|| starts() == [1, 2, 2]).await;
        a.dies.notify_one();
        until(|| starts() == [2, 3, 3]).await;
        c.dies.notify_one();
        until(|| starts() == [2, 3, 4]).await;
    }

    #[tokio::test]
    async fn elsewhere_the_others_live_on() {
        let ((first, a), (second, b)) = (fragile("a"), fragile("b"));
        let (_root, _) = supervise(vec![first, second]).await;
        let starts = || [&a, &b].map(|service| service.starts.load(Relaxed));
        until(|| starts() == [1, 1]).await;
        a.dies.notify_one();
        until(|| starts() == [2, 1]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_fails_is_tried_again_like_any_death() {
        let (addr, ends) = (address(8), Ends::default());
        let tries = Arc::new(AtomicUsize::new(0));
        let (tried, inner) = (tries.clone(), addr.clone());
        let branch = ActorRegistry::new("test").branch("branch");
        let children = move || match tried.fetch_add(1, Relaxed) {
            0 | 1 => Err("not yet".into()),
            _ => Ok(vec![child("anna", &inner, &ends)]),
        };
        let branch = Child::branch(&branch, Strategy::OneForOne, POLICY, children);
        let (_root, ended) = supervise(vec![branch]).await;
        assert_eq!(addr.ask((), Ask::Greet).await.unwrap(), "anna");
        assert_eq!(tries.load(Relaxed), 3);
        assert!(!ended.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn deaths_go_up_from_an_actor_to_its_branch_and_at_the_root_end_it_all() {
        let (addr, ends) = (address(8), Ends::default());
        let inner = addr.clone();
        let (branch, starts) =
            (ActorRegistry::new("test").branch("branch"), Arc::new(AtomicUsize::new(0)));
        let started = starts.clone();
        let branch = Child::branch(&branch, Strategy::OneForOne, POLICY, move || {
            started.fetch_add(1, Relaxed);
            Ok(vec![child("anna", &inner, &ends)])
        });
        let (_root, ended) = supervise(vec![branch]).await;
        let mut deaths = 0;
        while !ended.is_finished() {
            let died = addr.ask((), Ask::Panic).await;
            deaths += usize::from(matches!(died, Err(Error::Crashed(_))));
        }
        assert_eq!((deaths, starts.load(Relaxed)), (30, 3));
    }

    #[tokio::test]
    async fn a_paused_service_stays_away_until_it_is_resumed() {
        let (child, service) = fragile("a");
        let actor_metrics = child.actor_metrics.clone();
        let (root, ended) = supervise(vec![child]).await;
        until(|| service.starts.load(Relaxed) == 1).await;
        actor_metrics.control(Action::Pause, "to look".into()).unwrap();
        until(|| reading(&actor_metrics).status == Status::Paused).await;
        actor_metrics.control(Action::Resume, String::new()).unwrap();
        until(|| service.starts.load(Relaxed) == 2).await;
        actor_metrics.control(Action::Drain, "for good".into()).unwrap();
        until(|| reading(&actor_metrics).status == Status::Stopped).await;
        root.stop(None);
        ended.await.unwrap();
        assert_eq!(service.starts.load(Relaxed), 2);
    }

    /// An owner whose handler blocks its thread until it is let go: nothing can end it.
    struct Deaf;

    #[derive(IntoStaticStr)]
    enum Hold {
        Block(std::sync::mpsc::Receiver<()>, #[expect(dead_code, reason = "never used")] Reply<()>),
        Answer(Reply<&'static str>),
    }

    impl Actor for Deaf {
        type Msg = Hold;

        async fn handle(&mut self, _: &ActorContext<Hold>, message: Hold) -> HandlerResult {
            match message {
                Hold::Block(let_go, _) => {
                    // Another task that this poll woke may be in the worker's LIFO slot, which no
                    // other worker can steal from: let it run before the thread blocks.
                    tokio::task::yield_now().await;
                    Ok(let_go.recv()?)
                }
                Hold::Answer(reply) => respond(reply, Ok("a fresh one")),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_never_lets_go_is_forsaken() {
        let branch = ActorRegistry::new("test");
        let addr: Addr<Hold> = Addr::new(&branch, "deaf", 1, 8, Duration::from_secs(30));
        let actor_metrics = addr.mailboxes()[0].actor_metrics().clone();
        let (_root, _) = supervise(vec![Child::owner(&addr.mailboxes()[0], || Deaf)]).await;
        let (let_go, held) = std::sync::mpsc::channel();
        let asked = addr.clone();
        tokio::spawn(async move { asked.ask((), |reply| Hold::Block(held, reply)).await });
        until(|| reading(&actor_metrics).current.is_some()).await;
        actor_metrics.control(Action::Restart, "it blocks".into()).unwrap();
        assert_eq!(addr.ask((), Hold::Answer).await.unwrap(), "a fresh one");
        assert_eq!(reading(&actor_metrics).restarts, 1);
        let_go.send(()).unwrap(); // it held on all the while
    }
}
