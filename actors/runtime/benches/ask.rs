//! What it costs to ask an owner, beside what the owner does: the envelope there, its handling, and the answer.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::future::join_all;
use ractor::{ActorProcessingErr, ActorRef};
use shop_runtime::registry::ActorRegistry;
use shop_runtime::{Actor, ActorContext, Addr, HandlerResult, Reply, respond, spawn_actor};
use strum::IntoStaticStr;
use tokio::runtime::Runtime;

/// Somebody who knows the answer already.
struct Prompt;

#[derive(Debug, IntoStaticStr)]
enum Msg {
    Ask(Reply<u64>),
    /// Tells itself so many messages, and then answers.
    Tell(u64, Reply<u64>),
    Told(u64, Option<Reply<u64>>),
}

impl Actor for Prompt {
    type Msg = Msg;

    async fn handle(&mut self, me: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Ask(reply) => respond(reply, Ok(42)),
            Msg::Tell(count, reply) => {
                (1..count).for_each(|number| me.tell(Msg::Told(number, None)));
                me.tell(Msg::Told(count, Some(reply)));
                Ok(())
            }
            Msg::Told(number, reply) => match reply {
                Some(reply) => respond(reply, Ok(number)),
                None => Ok(()),
            },
        }
    }
}

/// Whoever starts an owner needs one.
struct Supervisor;

impl ractor::Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

async fn prompt() -> Addr<Msg> {
    let addr =
        Addr::new(&ActorRegistry::new("bench"), "prompt", 1, 100_000, Duration::from_secs(60));
    let (supervisor, _) = ractor::Actor::spawn(None, Supervisor, ()).await.expect("a supervisor");
    spawn_actor(Prompt, &addr.mailboxes()[0], supervisor.get_cell()).await.expect("an owner");
    addr
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().expect("a runtime");
    let addr = runtime.block_on(prompt());

    let mut asking = criterion.benchmark_group("Addr::ask");
    for at_once in [1_u64, 16, 64] {
        asking.throughput(Throughput::Elements(at_once));
        asking.bench_function(BenchmarkId::new("at once", at_once), |bench| {
            bench.iter_custom(|times| {
                let addr = addr.clone();
                let asking = async move {
                    let since = Instant::now();
                    for _ in 0..times {
                        join_all((0..at_once).map(|_| addr.ask((), Msg::Ask))).await;
                    }
                    since.elapsed()
                };
                runtime.block_on(runtime.spawn(asking)).expect("an answer")
            });
        });
    }
    asking.finish();

    let mut telling = criterion.benchmark_group("the envelope");
    telling.throughput(Throughput::Elements(1000));
    telling.bench_function("a thousand, told and handled", |bench| {
        bench.iter(|| {
            let told = addr.ask((), |reply| Msg::Tell(1000, reply));
            runtime.block_on(told).expect("an answer")
        });
    });
    telling.finish();
    criterion.final_summary();
}
