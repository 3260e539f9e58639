//! A counter: an actor with state, its messages, and an address.
//!
//! `cargo run -p shop-runtime --example counter`

use std::time::Duration;

use shop_runtime::{
    Actor, ActorContext, ActorRegistry, Addr, Child, HandlerResult, Reply, RestartPolicy, Root,
    respond,
};
use strum::IntoStaticStr;

/// The messages of the counter. A variant with a reply is an ask.
#[derive(IntoStaticStr)]
enum Msg {
    Add(u64, Reply<u64>),
    Get(Reply<u64>),
}

struct Counter {
    value: u64,
}

impl Actor for Counter {
    type Msg = Msg;

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Add(amount, reply) => {
                self.value += amount;
                respond(reply, Ok(self.value))
            }
            Msg::Get(reply) => respond(reply, Ok(self.value)),
        }
    }
}

/// Runs the example.
///
/// # Errors
/// If an actor does not start or an ask fails.
#[tokio::main]
pub async fn main() -> HandlerResult {
    let registry = ActorRegistry::new("example");
    // One shard, at most 64 waiting messages, a reply within a second.
    let addr = Addr::new(&registry, "counter", 1, 64, Duration::from_secs(1));
    let counter = Child::actor(&addr.mailboxes()[0], || Counter { value: 0 });
    let root = Root::start(&registry, RestartPolicy::default(), vec![counter]).await?;

    for amount in 1..=4 {
        let value = addr.ask((), |reply| Msg::Add(amount, reply)).await?;
        println!("added {amount}: {value}");
    }
    assert_eq!(addr.ask((), Msg::Get).await?, 10);

    let view = &registry.actors()[1];
    println!("{} has handled {} messages", view.path, view.handled);
    root.stop().await;
    Ok(())
}
