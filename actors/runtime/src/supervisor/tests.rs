//! Supervision, seen through addresses, metrics and control.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use strum::IntoStaticStr;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::registry::{ActorKind, ActorRegistry, ActorView, Status};
use crate::{Actor, ActorContext, Addr, Error, Reply, Service, respond};

/// An actor that fails or waits on request, and records when it is dropped.
struct Scripted {
    name: &'static str,
    dropped: Arc<Mutex<Vec<&'static str>>>,
}

#[derive(IntoStaticStr)]
enum Ask {
    Name(Reply<&'static str>),
    Panic(#[expect(dead_code, reason = "dropped with the actor")] Reply<()>),
    Fail(Reply<()>),
    Wait(Arc<Notify>, Reply<()>),
}

impl Actor for Scripted {
    type Msg = Ask;

    async fn handle(&mut self, _: &ActorContext<Ask>, message: Ask) -> HandlerResult {
        match message {
            Ask::Name(reply) => respond(reply, Ok(self.name)),
            Ask::Panic(_) => panic!("panic on request"),
            Ask::Fail(_reply) => Err("failure on request".into()),
            Ask::Wait(notify, reply) => {
                notify.notified().await;
                respond(reply, Ok(()))
            }
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.dropped.lock().unwrap().push(self.name);
    }
}

type Dropped = Arc<Mutex<Vec<&'static str>>>;

fn child(name: &'static str, addr: &Addr<Ask>, dropped: &Dropped) -> Child {
    let dropped = dropped.clone();
    Child::actor(&addr.mailboxes()[0], move || Scripted { name, dropped: dropped.clone() })
}

async fn start(children: Vec<Child>) -> Root {
    Root::start(&ActorRegistry::new("test"), RestartPolicy::default(), children).await.unwrap()
}

/// An address whose asks time out after a time that no busy machine exceeds.
fn address(capacity: usize) -> Addr<Ask> {
    Addr::new(&ActorRegistry::new("test"), "scripted", 1, capacity, Duration::from_secs(60))
}

fn metrics(addr: &Addr<Ask>) -> &Arc<ActorMetrics> {
    addr.mailboxes()[0].actor_metrics()
}

fn view(actor_metrics: &Arc<ActorMetrics>) -> ActorView {
    ActorView::of(actor_metrics)
}

/// Waits for a condition; fails after a minute.
#[track_caller]
fn until(condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    until_equal(condition, true)
}

/// Waits until `actual` returns `expected`; fails after a minute. An actor's metrics change after its
/// reply is sent.
#[track_caller]
fn until_equal<T: PartialEq + std::fmt::Debug>(
    mut actual: impl FnMut() -> T,
    expected: T,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let since = std::time::Instant::now(); // the runtime's clock may be paused
        loop {
            let actual = actual();
            if actual == expected {
                return;
            }
            let waits = since.elapsed() < Duration::from_secs(60);
            assert!(waits, "{actual:?} is not {expected:?} after a minute, at {caller}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_caller_gets_an_error_when_the_actor_fails_and_the_next_message_is_handled() {
    let (addr, dropped) = (address(8), Dropped::default());
    let root = start(vec![child("anna", &addr, &dropped)]).await;
    for _ in 0..3 {
        assert!(matches!(addr.ask((), Ask::Panic).await, Err(Error::Crashed("scripted"))));
        assert_eq!(addr.ask((), Ask::Name).await.unwrap(), "anna");
        assert!(matches!(addr.ask((), Ask::Fail).await, Err(Error::Crashed("scripted"))));
        assert_eq!(addr.ask((), Ask::Name).await.unwrap(), "anna");
    }
    root.stop().await;
    until_equal(|| metrics(&addr).depth(), 0).await; // the depth counts no message that was lost
}

#[tokio::test]
async fn a_full_mailbox_refuses_at_once() {
    let (addr, dropped, notify) = (address(2), Dropped::default(), Arc::new(Notify::new()));
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    let asks: Vec<_> = (0..4)
        .map(|_| {
            let (addr, notify) = (addr.clone(), notify.clone());
            tokio::spawn(async move { addr.ask((), |reply| Ask::Wait(notify, reply)).await })
        })
        .collect();
    until_equal(|| view(metrics(&addr)).rejected, 2).await;
    assert!(matches!(addr.ask((), Ask::Name).await, Err(Error::Overloaded(_))));
    let mut refused = 0;
    for ask in asks {
        notify.notify_one();
        refused += u32::from(ask.await.unwrap().is_err());
        notify.notify_one();
    }
    assert_eq!(refused, 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_caller_has_timed_out_is_not_handled() {
    let (addr, dropped, notify) = (address(8), Dropped::default(), Arc::new(Notify::new()));
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
    let late = addr.ask((), Ask::Panic);
    let (busy, late) = tokio::join!(busy, late);
    assert!(matches!((busy, late), (Err(Error::Unavailable(_)), Err(Error::Unavailable(_)))));
    notify.notify_one();
    assert_eq!(addr.ask((), Ask::Name).await.unwrap(), "anna");
    until_equal(|| view(metrics(&addr)).expired, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_fails_when_a_child_fails_too_often() {
    let (addr, dropped) = (address(8), Dropped::default());
    let root = start(vec![child("anna", &addr, &dropped)]).await;
    let mut failures = 0;
    while !root.has_ended() {
        addr.ask((), Ask::Panic).await.expect_err("it panics");
        failures += 1;
    }
    assert!((10..13).contains(&failures), "{failures}");
}

#[tokio::test]
async fn children_stop_in_reverse_order_after_their_waiting_messages() {
    let (first, second, dropped) = (address(8), address(8), Dropped::default());
    let children = vec![child("first", &first, &dropped), child("second", &second, &dropped)];
    let root = start(children).await;
    let (name, ()) = tokio::join!(first.ask((), Ask::Name), root.stop());
    assert_eq!(name.unwrap(), "first");
    assert_eq!(*dropped.lock().unwrap(), ["second", "first"]);
}

#[tokio::test]
async fn waiting_messages_survive_a_failure_of_their_actor() {
    let (addr, dropped, notify) = (address(8), Dropped::default(), Arc::new(Notify::new()));
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
    let (fatal, next) = (addr.ask((), Ask::Panic), addr.ask((), Ask::Name));
    let all = async { tokio::join!(busy, fatal, next) };
    let (all, ()) = tokio::join!(all, async {
        until(|| metrics(&addr).depth() == 3).await;
        notify.notify_one();
    });
    assert!(matches!(all, (Ok(()), Err(Error::Crashed(_)), Ok("anna"))), "{all:?}");
    let counts = || {
        let view = view(metrics(&addr));
        (view.handled, view.lost, view.restarts)
    };
    until_equal(counts, (2, 1, 1)).await;
    let failure = &metrics(&addr).failures()[0];
    assert_eq!(failure.message.as_deref(), Some("Panic"));
    assert!(failure.reason.contains("panic on request"), "{failure:?}");
}

#[tokio::test]
async fn a_stuck_actor_is_shown_and_can_be_restarted() {
    let (addr, dropped, never) = (address(8), Dropped::default(), Arc::new(Notify::new()));
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    let stuck = addr.ask((), |reply| Ask::Wait(never.clone(), reply));
    let restarted = async {
        until(|| view(metrics(&addr)).status == Status::Stuck).await;
        let current = view(metrics(&addr)).current.unwrap();
        assert_eq!(current.message, "Wait");
        assert!(current.for_ms >= 2000.0, "{current:?}");
        metrics(&addr).control(ControlAction::Restart, "it hangs".into()).unwrap();
        addr.ask((), Ask::Name).await
    };
    let (stuck, name) = tokio::join!(stuck, restarted);
    assert!(matches!(stuck, Err(Error::Crashed(_))), "{stuck:?}");
    assert_eq!(name.unwrap(), "anna");
    let reason = || metrics(&addr).failures().first().map(|failure| failure.reason.clone());
    until_equal(reason, Some("restarted by an administrator: it hangs".to_owned())).await;
}

#[tokio::test]
async fn a_paused_actor_handles_nothing_until_it_is_resumed() {
    let (addr, dropped) = (address(8), Dropped::default());
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    metrics(&addr).control(ControlAction::Pause, "to inspect it".into()).unwrap();
    until(|| view(metrics(&addr)).status == Status::Paused).await;
    assert!(metrics(&addr).check_allowed(ControlAction::Pause).is_err());
    let asked = addr.ask((), Ask::Name);
    let resumed = async {
        until(|| metrics(&addr).depth() == 1).await;
        assert_eq!(view(metrics(&addr)).handled, 0);
        metrics(&addr).control(ControlAction::Resume, String::new()).unwrap();
    };
    let (name, ()) = tokio::join!(asked, resumed);
    assert_eq!(name.unwrap(), "anna");
}

#[tokio::test]
async fn a_draining_actor_handles_its_waiting_messages_and_refuses_new_ones() {
    let (addr, dropped, notify) = (address(8), Dropped::default(), Arc::new(Notify::new()));
    let _root = start(vec![child("anna", &addr, &dropped)]).await;
    let busy = addr.ask((), |reply| Ask::Wait(notify.clone(), reply));
    let waiting = addr.ask((), Ask::Name);
    let drained = async {
        until(|| metrics(&addr).depth() == 2).await;
        metrics(&addr).control(ControlAction::Drain, "maintenance".into()).unwrap();
        until(|| view(metrics(&addr)).status == Status::Draining).await;
        assert!(matches!(addr.ask((), Ask::Name).await, Err(Error::Unavailable(_))));
        notify.notify_one();
    };
    let (busy, waiting, ()) = tokio::join!(busy, waiting, drained);
    assert!(busy.is_ok() && waiting.is_ok());
    until(|| view(metrics(&addr)).status == Status::Stopped).await;
    metrics(&addr).control(ControlAction::Resume, String::new()).unwrap();
    until(|| view(metrics(&addr)).status == Status::Running).await;
    assert_eq!(addr.ask((), Ask::Name).await.unwrap(), "anna");
}

/// A service that counts its starts and fails on request.
#[derive(Clone)]
struct Fragile {
    starts: Arc<AtomicUsize>,
    failure: Arc<Notify>,
}

impl Service for Fragile {
    async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        self.starts.fetch_add(1, Relaxed);
        tokio::select! {
            () = self.failure.notified() => Err("failure on request".into()),
            () = stop.cancelled() => Ok(()),
        }
    }
}

fn fragile(name: &str) -> (Child, Fragile) {
    let service = Fragile { starts: Arc::default(), failure: Arc::default() };
    let actor_metrics =
        ActorRegistry::new("test").branch(name).actor_metrics(ActorKind::Service, None, 1);
    (Child::service(&actor_metrics, GRACE, service.clone()), service)
}

#[tokio::test]
async fn rest_for_one_restarts_the_children_after_the_failed_one() {
    let ((first, a), (second, b), (third, c)) = (fragile("a"), fragile("b"), fragile("c"));
    let (registry, policy) = (ActorRegistry::new("test"), RestartPolicy::default());
    let children = vec![first, second, third];
    let _root = Root::with_strategy(&registry, policy, Strategy::RestForOne, children).await;
    let starts = || [&a, &b, &c].map(|service| service.starts.load(Relaxed));
    until(|| starts() == [1, 1, 1]).await;
    b.failure.notify_one();
    until(|| starts() == [1, 2, 2]).await;
    a.failure.notify_one();
    until(|| starts() == [2, 3, 3]).await;
    c.failure.notify_one();
    until(|| starts() == [2, 3, 4]).await;
}

#[tokio::test]
async fn one_for_one_restarts_only_the_failed_child() {
    let ((first, a), (second, b)) = (fragile("a"), fragile("b"));
    let _root = start(vec![first, second]).await;
    let starts = || [&a, &b].map(|service| service.starts.load(Relaxed));
    until(|| starts() == [1, 1]).await;
    a.failure.notify_one();
    until(|| starts() == [2, 1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_retried_like_a_failure() {
    let (addr, dropped) = (address(8), Dropped::default());
    let attempts = Arc::new(AtomicUsize::new(0));
    let (attempted, inner) = (attempts.clone(), addr.clone());
    let branch = ActorRegistry::new("test").branch("branch");
    let children = move || match attempted.fetch_add(1, Relaxed) {
        0 | 1 => Err("not yet".into()),
        _ => Ok(vec![child("anna", &inner, &dropped)]),
    };
    let policy = RestartPolicy::default();
    let branch = Child::supervisor(&branch, Strategy::OneForOne, policy, children);
    let root = start(vec![branch]).await;
    assert_eq!(addr.ask((), Ask::Name).await.unwrap(), "anna");
    assert_eq!(attempts.load(Relaxed), 3);
    assert!(!root.has_ended());
}

#[tokio::test(start_paused = true)]
async fn repeated_failures_escalate_from_the_actor_to_the_root() {
    let (addr, dropped) = (address(8), Dropped::default());
    let inner = addr.clone();
    let (branch, starts) =
        (ActorRegistry::new("test").branch("branch"), Arc::new(AtomicUsize::new(0)));
    let started = starts.clone();
    let policy = RestartPolicy::default();
    let branch = Child::supervisor(&branch, Strategy::OneForOne, policy, move || {
        started.fetch_add(1, Relaxed);
        Ok(vec![child("anna", &inner, &dropped)])
    });
    let root = start(vec![branch]).await;
    let mut failures = 0;
    while !root.has_ended() {
        let outcome = addr.ask((), Ask::Panic).await;
        failures += usize::from(matches!(outcome, Err(Error::Crashed(_))));
    }
    assert_eq!((failures, starts.load(Relaxed)), (30, 3));
}

#[tokio::test]
async fn a_paused_service_is_stopped_until_it_is_resumed() {
    let (child, service) = fragile("a");
    let actor_metrics = child.actor_metrics().clone();
    let root = start(vec![child]).await;
    until(|| service.starts.load(Relaxed) == 1).await;
    actor_metrics.control(ControlAction::Pause, "to inspect it".into()).unwrap();
    until(|| view(&actor_metrics).status == Status::Paused).await;
    actor_metrics.control(ControlAction::Resume, String::new()).unwrap();
    until(|| service.starts.load(Relaxed) == 2).await;
    actor_metrics.control(ControlAction::Drain, "maintenance".into()).unwrap();
    until(|| view(&actor_metrics).status == Status::Stopped).await;
    root.stop().await;
    assert_eq!(service.starts.load(Relaxed), 2);
}

/// An actor whose handler blocks its thread until the sender is used: no kill ends it.
struct Blocking;

#[derive(IntoStaticStr)]
enum Block {
    Until(std::sync::mpsc::Receiver<()>, #[expect(dead_code, reason = "never used")] Reply<()>),
    Name(Reply<&'static str>),
}

impl Actor for Blocking {
    type Msg = Block;

    async fn handle(&mut self, _: &ActorContext<Block>, message: Block) -> HandlerResult {
        match message {
            Block::Until(released, _) => {
                // Another task that this poll woke may be in the worker's LIFO slot, which no
                // other worker can steal from: let it run before the thread blocks.
                tokio::task::yield_now().await;
                Ok(released.recv()?)
            }
            Block::Name(reply) => respond(reply, Ok("the new actor")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_actor_that_blocks_its_thread_is_abandoned_after_the_kill_timeout() {
    let registry = ActorRegistry::new("test");
    let addr: Addr<Block> = Addr::new(&registry, "blocking", 1, 8, Duration::from_secs(60));
    let actor_metrics = addr.mailboxes()[0].actor_metrics().clone();
    let _root = start(vec![Child::actor(&addr.mailboxes()[0], || Blocking)]).await;
    let (release, released) = std::sync::mpsc::channel();
    let blocked = addr.clone();
    tokio::spawn(async move { blocked.ask((), |reply| Block::Until(released, reply)).await });
    until(|| view(&actor_metrics).current.is_some()).await;
    actor_metrics.control(ControlAction::Restart, "it blocks".into()).unwrap();
    assert_eq!(addr.ask((), Block::Name).await.unwrap(), "the new actor");
    until_equal(|| view(&actor_metrics).restarts, 1).await;
    release.send(()).unwrap(); // the receiver was held until now
}
