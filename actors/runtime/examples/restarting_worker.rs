//! A worker that crashes: its caller gets an error, its supervisor starts a new worker on the same
//! mailbox, and the message that waited behind the crash is handled.
//!
//! `cargo run -p shop-runtime --example restarting_worker`

use std::time::Duration;

use shop_runtime::{
    Actor, ActorContext, ActorRegistry, Addr, Child, Error, HandlerResult, Reply, RestartPolicy,
    Root, respond,
};
use strum::IntoStaticStr;

#[derive(IntoStaticStr)]
enum Msg {
    Divide(u64, u64, Reply<u64>),
}

struct Worker;

impl Actor for Worker {
    type Msg = Msg;

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        let Msg::Divide(dividend, divisor, reply) = message;
        // A bug: it panics on zero instead of replying with an error.
        respond(reply, Ok(dividend / divisor))
    }
}

/// Runs the example.
///
/// # Errors
/// If an actor does not start or an ask fails.
#[tokio::main]
pub async fn main() -> HandlerResult {
    std::panic::set_hook(Box::new(|panic| println!("worker: {panic}")));
    let registry = ActorRegistry::new("example");
    let addr = Addr::new(&registry, "worker", 1, 64, Duration::from_secs(5));
    let worker = Child::actor(&addr.mailboxes()[0], || Worker);
    let root = Root::start(&registry, RestartPolicy::default(), vec![worker]).await?;

    let (crashed, waiting) = tokio::join!(
        addr.ask((), |reply| Msg::Divide(1, 0, reply)),
        addr.ask((), |reply| Msg::Divide(84, 2, reply)),
    );
    assert_eq!(crashed, Err(Error::Crashed("worker")));
    assert_eq!(waiting, Ok(42));

    // A message counts as handled after its reply was sent; a stopped actor has counted them all.
    root.stop().await;
    let worker = &registry.actors()[1];
    let failure = worker.last_failure.as_ref().ok_or("the failure is recorded")?;
    println!("{}: {} restart, last failure: {}", worker.path, worker.restarts, failure.reason);
    assert_eq!((worker.restarts, worker.handled, worker.lost), (1, 1, 1));
    Ok(())
}
