//! Group commit: many callers append to a log file, and one `fsync` makes a whole batch durable.
//!
//! `cargo run -p shop-runtime --example batcher`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use shop_runtime::{
    Actor, ActorContext, ActorRegistry, Addr, BatchLimits, Batcher, Child, Flush, HandlerResult,
    Reply, RestartPolicy, Root, respond,
};
use strum::IntoStaticStr;

#[derive(IntoStaticStr)]
enum Msg {
    Append(String, Reply<u64>),
    Flush(Flush),
}

type Entry = (String, Reply<u64>);

struct Log {
    file: File,
    entries: u64,
    commits: u64,
    batch: Batcher<Entry, Msg>,
}

impl Log {
    fn open() -> HandlerResult<Log> {
        let path = std::env::temp_dir().join(format!("shop-runtime-log-{}", std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        std::fs::remove_file(path)?; // the open file is enough for an example
        let max_wait = Duration::from_millis(1);
        let limits = BatchLimits { max_size: 128, max_target: 32, max_wait };
        Ok(Log { file, entries: 0, commits: 0, batch: Batcher::new(limits, Msg::Flush) })
    }

    /// Writes a batch, makes it durable, and replies to its callers.
    fn commit(&mut self, batch: Vec<Entry>) -> HandlerResult {
        let lines: String = batch.iter().map(|(line, _)| format!("{line}\n")).collect();
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()?;
        self.commits += 1;
        for (_, reply) in batch {
            self.entries += 1;
            respond(reply, Ok(self.entries))?;
        }
        Ok(())
    }
}

impl Actor for Log {
    type Msg = Msg;

    async fn handle(&mut self, context: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        let complete = match message {
            Msg::Append(line, reply) => self.batch.push(context, (line, reply)),
            Msg::Flush(flush) => self.batch.on_flush(context, flush),
        };
        complete.map_or(Ok(()), |batch| self.commit(batch))
    }

    async fn drain(&mut self, _: &ActorContext<Msg>) -> HandlerResult<Option<Duration>> {
        let batch = self.batch.take();
        if !batch.is_empty() {
            self.commit(batch)?;
        }
        Ok(None)
    }

    fn state(&self) -> Value {
        json!({"entries": self.entries, "commits": self.commits})
    }
}

/// Runs the example.
///
/// # Errors
/// If an actor does not start or an ask fails.
#[tokio::main]
pub async fn main() -> HandlerResult {
    let registry = ActorRegistry::new("example");
    let addr = Addr::new(&registry, "log", 1, 1024, Duration::from_secs(10));
    let make = || Log::open().expect("the log file opens");
    let root = Root::start(
        &registry,
        RestartPolicy::default(),
        vec![Child::actor(&addr.mailboxes()[0], make)],
    )
    .await?;

    let since = Instant::now();
    let clients = (0..64).map(|client| {
        let addr = addr.clone();
        async move {
            for number in 0..20 {
                let line = format!("client {client}, line {number}");
                addr.ask((), |reply| Msg::Append(line, reply)).await?;
            }
            Ok::<_, shop_runtime::Error>(())
        }
    });
    join_all(clients).await.into_iter().collect::<Result<Vec<()>, _>>()?;

    let state =
        registry.details("example/log/0").await?.state.ok_or("the log reports its state")?;
    println!("{state} in {} ms", since.elapsed().as_millis());
    assert_eq!(state["entries"], 1280);
    assert!(state["commits"].as_u64().is_some_and(|commits| commits < 640), "{state}");
    root.stop().await;
    Ok(())
}
