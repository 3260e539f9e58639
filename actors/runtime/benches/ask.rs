//! The cost of a message: the envelope, the round trip of an ask, and a batch.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::future::join_all;
use shop_runtime::{
    Actor, ActorContext, ActorRegistry, Addr, BatchLimits, Batcher, Child, Flush, HandlerResult,
    Reply, RestartPolicy, Root, respond,
};
use strum::IntoStaticStr;
use tokio::runtime::Runtime;

/// An actor that replies at once.
struct Echo {
    batch: Batcher<Reply<u64>, Msg>,
}

#[derive(Debug, IntoStaticStr)]
enum Msg {
    Ask(Reply<u64>),
    /// Sends this number of messages to itself, then replies.
    TellSelf(u64, Reply<u64>),
    Told(u64, Option<Reply<u64>>),
    /// Replies with the other messages of its batch.
    Batched(Reply<u64>),
    Flush(Flush),
}

impl Echo {
    fn new() -> Echo {
        let max_wait = Duration::from_millis(1);
        let limits = BatchLimits { max_size: 128, max_target: 32, max_wait };
        Echo { batch: Batcher::new(limits, Msg::Flush) }
    }

    fn commit(batch: Option<Vec<Reply<u64>>>) -> HandlerResult {
        batch.into_iter().flatten().try_for_each(|reply| respond(reply, Ok(42)))
    }
}

impl Actor for Echo {
    type Msg = Msg;

    async fn handle(&mut self, context: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Ask(reply) => respond(reply, Ok(42)),
            Msg::TellSelf(count, reply) => {
                for number in 1..count {
                    context.tell(Msg::Told(number, None));
                }
                context.tell(Msg::Told(count, Some(reply)));
                Ok(())
            }
            Msg::Told(number, Some(reply)) => respond(reply, Ok(number)),
            Msg::Told(_, None) => Ok(()),
            Msg::Batched(reply) => Echo::commit(self.batch.push(context, reply)),
            Msg::Flush(flush) => Echo::commit(self.batch.on_flush(context, flush)),
        }
    }
}

async fn start() -> (Addr<Msg>, Root) {
    let registry = ActorRegistry::new("bench");
    let addr = Addr::new(&registry, "echo", 1, 100_000, Duration::from_secs(60));
    let children = vec![Child::actor(&addr.mailboxes()[0], Echo::new)];
    let root = Root::start(&registry, RestartPolicy::default(), children).await;
    (addr, root.expect("the actor starts"))
}

/// Measures `concurrent` asks at a time.
fn ask(
    criterion: &mut Criterion,
    runtime: &Runtime,
    addr: &Addr<Msg>,
    group: &str,
    message: fn(Reply<u64>) -> Msg,
) {
    let mut group = criterion.benchmark_group(group);
    for concurrent in [1_u64, 16, 64] {
        group.throughput(Throughput::Elements(concurrent));
        group.bench_function(BenchmarkId::new("concurrent", concurrent), |bench| {
            bench.iter_custom(|times| {
                let addr = addr.clone();
                let asks = async move {
                    let since = Instant::now();
                    for _ in 0..times {
                        join_all((0..concurrent).map(|_| addr.ask((), message))).await;
                    }
                    since.elapsed()
                };
                runtime.block_on(runtime.spawn(asks)).expect("the task ends")
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().expect("a runtime");
    let (addr, root) = runtime.block_on(start());
    ask(&mut criterion, &runtime, &addr, "Addr::ask", Msg::Ask);
    ask(&mut criterion, &runtime, &addr, "Batcher::push", Msg::Batched);

    let mut envelopes = criterion.benchmark_group("envelope");
    envelopes.throughput(Throughput::Elements(1000));
    envelopes.bench_function("1000 messages to itself", |bench| {
        bench.iter(|| {
            let told = addr.ask((), |reply| Msg::TellSelf(1000, reply));
            runtime.block_on(told).expect("a reply")
        });
    });
    envelopes.finish();
    criterion.final_summary();
    runtime.block_on(root.stop());
}
