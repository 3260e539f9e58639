//! What goes wrong, when and for how long: drawn up from the seed before anything runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::shop::Shop;

/// What a fault may take until all is well again, beyond its own time.
const HEALING_PATIENCE: Duration = Duration::from_secs(120);

/// Nothing happens before. A queue of RabbitMQ that is declared for the first time is broken for ever if RabbitMQ is
/// killed before it has written it down everywhere, which takes it up to 2 s; the shop declares its queues at its start.
const CALM: Duration = Duration::from_secs(3);

/// How often another fault is drawn when its target has one already.
const DRAWS: usize = 50;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `kill -9` of a node, which is then started again.
    Node,
    /// `kill -9` of RabbitMQ, which is then started again.
    Broker,
    /// `kill -9` of one backend of PostgreSQL: all of them start over.
    Backend,
    /// `kill -9` of the postmaster, which is then started again.
    Postmaster,
    /// SIGSTOP of a node, of RabbitMQ or of a backend, and SIGCONT later.
    Stop,
    /// A link resets every connection, and every new one for a while.
    Cut,
    /// A link carries nothing for a while, then resets.
    Hang,
    /// A link is slow for a while.
    Delay,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::Broker,
        Kind::Backend,
        Kind::Postmaster,
        Kind::Stop,
        Kind::Cut,
        Kind::Hang,
        Kind::Delay,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One of the nodes' processes, by its place.
    Replica(usize),
    Broker,
    Postmaster,
    /// One of the backends that serve nodes then; the number chooses.
    Backend(usize),
    /// One of the links, by its place.
    Connection(usize),
}

impl Target {
    /// What no other fault may happen to meanwhile.
    fn whole(self) -> Target {
        if let Target::Backend(_) = self { Target::Postmaster } else { self }
    }
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// When, from the beginning of the load.
    pub at: Duration,
    pub kind: Kind,
    pub target: Target,
    /// How long; nothing for what is killed.
    pub lasts: Duration,
    /// By how much a slow link is slow.
    pub delay: Duration,
}

/// What there is for faults to happen to.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    pub replicas: usize,
    pub links: usize,
}

/// The faults of a run of `length`, one `every` so long on average: the same for the same seed.
/// All are over by its end, but for what is started again then.
pub fn schedule(
    seed: u64,
    length: Duration,
    every: Duration,
    kinds: &[Kind],
    targets: Targets,
) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut busy: HashMap<Target, Duration> = HashMap::new();
    let mut faults = vec![];
    let mut at = CALM;
    loop {
        at += every.mul_f64(-(1.0 - rng.random::<f64>()).ln()); // exponential
        if at >= length {
            return faults;
        }
        let fits = |fault: &Fault| {
            let free = busy.get(&fault.target.whole()).is_none_or(|until| *until <= at);
            free && at + fault.lasts <= length
        };
        let mut draws = (0..DRAWS).map(|_| draw(&mut rng, at, kinds, targets));
        if let Some(fault) = draws.find(fits) {
            busy.insert(fault.target.whole(), at + fault.lasts + recovery(fault.kind));
            faults.push(fault);
        }
    }
}

fn draw(rng: &mut StdRng, at: Duration, kinds: &[Kind], targets: Targets) -> Fault {
    let kind = *kinds.choose(rng).unwrap_or(&Kind::Node);
    let replica = Target::Replica(rng.random_range(0..targets.replicas));
    let backend = Target::Backend(rng.random_range(0..1000));
    let link = Target::Connection(rng.random_range(0..targets.links));
    let stopped = *[replica, replica, Target::Broker, backend].choose(rng).unwrap_or(&replica);
    let (stop, cut) = (rng.random_range(1.0..5.0), rng.random_range(0.5..5.0));
    let delay = Duration::from_millis(rng.random_range(20..500));
    let (target, lasts) = match kind {
        Kind::Node => (replica, 0.0),
        Kind::Broker => (Target::Broker, 0.0),
        Kind::Backend => (backend, 0.0),
        Kind::Postmaster => (Target::Postmaster, 0.0),
        Kind::Stop => (stopped, stop),
        Kind::Cut | Kind::Hang | Kind::Delay => (link, cut),
    };
    Fault { at, kind, target, lasts: Duration::from_secs_f64(lasts), delay }
}

/// About how long a target takes to be as before.
fn recovery(kind: Kind) -> Duration {
    Duration::from_secs(match kind {
        Kind::Broker => 15,
        Kind::Postmaster => 5,
        Kind::Node | Kind::Backend => 3,
        Kind::Stop | Kind::Cut | Kind::Hang | Kind::Delay => 0,
    })
}

/// A fault that was, in seconds from the beginning of the load.
#[derive(Clone, Debug, Serialize)]
pub struct Past {
    pub kind: Kind,
    pub target: String,
    pub from: f64,
    /// When all was as before: what was killed answered again.
    pub to: f64,
}

/// Makes the faults happen. Resolves when the last is healed.
pub async fn happen(
    shop: &Arc<Shop>,
    faults: &[Fault],
    began: Instant,
) -> anyhow::Result<Vec<Past>> {
    let past = Arc::new(Mutex::new(vec![]));
    let mut under_way = JoinSet::new();
    for fault in faults.iter().copied() {
        sleep_until(began + fault.at).await;
        let (shop, past) = (Arc::clone(shop), Arc::clone(&past));
        under_way.spawn(async move {
            let from = began.elapsed().as_secs_f64();
            let target = shop.name(fault.target);
            eprintln!("{from:8.3} s  {:<10} {target}", fault.kind);
            let healed = timeout(fault.lasts + HEALING_PATIENCE, happens(&shop, fault)).await;
            let to = began.elapsed().as_secs_f64();
            healed
                .context("it takes too long")
                .flatten()
                .with_context(|| format!("{} of {target} at {from:.3} s", fault.kind))?;
            eprintln!("{to:8.3} s  {:<10} {target} is over", fault.kind);
            past.lock().expect("no panic").push(Past { kind: fault.kind, target, from, to });
            anyhow::Ok(())
        });
    }
    while let Some(over) = under_way.join_next().await {
        over??;
    }
    let mut past = std::mem::take(&mut *past.lock().expect("no panic"));
    past.sort_by(|a, b| a.from.total_cmp(&b.from));
    Ok(past)
}

async fn happens(shop: &Shop, fault: Fault) -> anyhow::Result<()> {
    let Fault { kind, target, lasts, delay, .. } = fault;
    let link = |place: usize| &shop.links[place];
    match (kind, target) {
        (Kind::Node, Target::Replica(place)) => shop.replicas[place].kill().await?,
        (Kind::Stop, Target::Replica(place)) => shop.replicas[place].stop(lasts).await?,
        (Kind::Broker, _) => shop.kill_broker().await?,
        (Kind::Stop, Target::Broker) => shop.stop_broker(lasts).await?,
        (Kind::Postmaster, _) => shop.kill_postmaster().await?,
        (Kind::Backend, Target::Backend(choice)) => shop.kill_backend(choice).await?,
        (Kind::Stop, Target::Backend(choice)) => shop.stop_backend(choice, lasts).await?,
        (Kind::Cut, Target::Connection(place)) => link(place).cut(lasts).await,
        (Kind::Hang, Target::Connection(place)) => link(place).hang(lasts).await,
        (Kind::Delay, Target::Connection(place)) => link(place).delay(delay, lasts).await,
        (kind, target) => bail!("no {kind} happens to {target:?}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets { replicas: 5, links: 19 };
    const LENGTH: Duration = Duration::from_secs(600);
    const EVERY: Duration = Duration::from_secs(2);

    fn of(seed: u64) -> Vec<Fault> {
        schedule(seed, LENGTH, EVERY, &Kind::ALL, TARGETS)
    }

    #[test]
    fn a_schedule_repeats_by_its_seed() {
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn a_schedule_has_every_kind_about_as_often_as_asked_for() {
        for seed in 0..50 {
            let faults = of(seed);
            assert!((200..400).contains(&faults.len()), "{}", faults.len());
            assert!(Kind::ALL.iter().all(|kind| faults.iter().any(|fault| fault.kind == *kind)));
        }
        let only = schedule(7, LENGTH, EVERY, &[Kind::Hang], TARGETS);
        assert!(!only.is_empty() && only.iter().all(|fault| fault.kind == Kind::Hang));
    }

    #[test]
    fn nothing_happens_to_what_something_happens_to_or_after_the_end() {
        for seed in 0..50 {
            let mut until: HashMap<Target, Duration> = HashMap::new();
            for fault in of(seed) {
                let before = until.insert(fault.target.whole(), fault.at + fault.lasts);
                assert!(before.is_none_or(|before| before <= fault.at), "{fault:?}");
                assert!(fault.at + fault.lasts <= LENGTH, "{fault:?}");
            }
        }
    }
}
