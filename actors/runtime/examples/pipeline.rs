//! A supervised pipeline: a source that runs a loop, a parser in two shards, and a sink. The parser
//! crashes on a line, which is lost, and restarts; the other stages continue and all other lines arrive.
//!
//! `cargo run -p shop-runtime --example pipeline`

use std::sync::Arc;
use std::time::Duration;

use shop_runtime::registry::{ActorKind, ActorMetrics};
use shop_runtime::{
    Actor, ActorContext, ActorRegistry, Addr, Child, GRACE, HandlerResult, Reply, RestartPolicy,
    Root, Service, respond,
};
use strum::IntoStaticStr;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(IntoStaticStr)]
enum Parse {
    Line(&'static str, Reply<()>),
}

/// Parses a line and passes the number on. The line is acknowledged when the sink has it.
struct Parser {
    sink: Addr<Sum>,
}

impl Actor for Parser {
    type Msg = Parse;

    async fn handle(&mut self, _: &ActorContext<Parse>, message: Parse) -> HandlerResult {
        let Parse::Line(line, reply) = message;
        let number = line.parse()?; // a bug: an invalid line crashes the parser
        respond(reply, self.sink.ask((), |reply| Sum::Add(number, reply)).await)
    }
}

#[derive(IntoStaticStr)]
enum Sum {
    Add(u64, Reply<()>),
    Get(Reply<u64>),
}

struct Sink {
    sum: u64,
}

impl Actor for Sink {
    type Msg = Sum;

    async fn handle(&mut self, _: &ActorContext<Sum>, message: Sum) -> HandlerResult {
        match message {
            Sum::Add(number, reply) => {
                self.sum += number;
                respond(reply, Ok(()))
            }
            Sum::Get(reply) => respond(reply, Ok(self.sum)),
        }
    }
}

/// Sends lines to the parser.
#[derive(Clone)]
struct Source {
    parser: Addr<Parse>,
    done: Arc<Notify>,
}

impl Service for Source {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        for line in ["10", "20", "x", "12"] {
            let parsed = self.parser.ask(line, |reply| Parse::Line(line, reply));
            match actor_metrics.measure("Send", parsed).await {
                Ok(()) => println!("{line}: parsed"),
                Err(error) => println!("{line}: {error}"),
            }
        }
        self.done.notify_one();
        stop.cancelled().await;
        Ok(())
    }
}

/// Runs the example.
///
/// # Errors
/// If an actor does not start or an ask fails.
#[tokio::main]
pub async fn main() -> HandlerResult {
    let registry = ActorRegistry::new("example");
    let sink = Addr::new(&registry, "sink", 1, 64, Duration::from_secs(5));
    let parser = Addr::new(&registry, "parser", 2, 64, Duration::from_secs(5));
    let done = Arc::new(Notify::new());

    let mut children = vec![Child::actor(&sink.mailboxes()[0], || Sink { sum: 0 })];
    for mailbox in parser.mailboxes() {
        let sink = sink.clone();
        children.push(Child::actor(mailbox, move || Parser { sink: sink.clone() }));
    }
    let actor_metrics = registry.branch("source").actor_metrics(ActorKind::Service, None, 1);
    let source = Source { parser, done: done.clone() };
    children.push(Child::service(&actor_metrics, GRACE, source));
    let root = Root::start(&registry, RestartPolicy::default(), children).await?;

    done.notified().await;
    for actor in registry.actors() {
        println!("{:<18} {:?}, {} restarts", actor.path, actor.status, actor.restarts);
    }
    assert_eq!(sink.ask((), Sum::Get).await?, 42);
    root.stop().await;
    Ok(())
}
