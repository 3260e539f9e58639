//! Faults: their kinds, their schedule, which follows from the seed, and their injection.

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

use crate::environment::Environment;

/// The maximum time until a fault is recovered, beyond its duration.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// The time before the first fault. RabbitMQ takes up to 2 s to persist a new queue. If it is killed
/// before, the queue stays unusable; the shop declares its queues when it starts.
const FIRST_FAULT: Duration = Duration::from_secs(3);

/// How many faults are drawn until one has a target without a fault.
const MAX_DRAWS: usize = 50;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// SIGKILL of a node and a restart.
    Node,
    /// SIGKILL of RabbitMQ and a restart.
    Broker,
    /// SIGKILL of a PostgreSQL backend, which ends all backends.
    Backend,
    /// SIGKILL of the postmaster and a restart.
    Postmaster,
    /// SIGSTOP of a node, RabbitMQ or a backend, and SIGCONT later.
    Suspend,
    /// A proxy resets all connections, and new ones for a while.
    Cut,
    /// A proxy forwards nothing for a while, then resets all connections.
    Stall,
    /// A proxy delays all data for a while.
    Delay,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 8] = [
        FaultKind::Node,
        FaultKind::Broker,
        FaultKind::Backend,
        FaultKind::Postmaster,
        FaultKind::Suspend,
        FaultKind::Cut,
        FaultKind::Stall,
        FaultKind::Delay,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// The target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A process of the shop, by its index.
    Replica(usize),
    Broker,
    Postmaster,
    /// A backend of PostgreSQL. The number selects one of those that exist when the fault starts.
    Backend(usize),
    /// A proxy, by its index.
    Proxy(usize),
}

impl Target {
    /// The target that can have one fault at a time.
    fn exclusive(self) -> Target {
        if let Target::Backend(_) = self { Target::Postmaster } else { self }
    }
}

/// A scheduled fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Its start, from the start of the load.
    pub at: Duration,
    pub kind: FaultKind,
    pub target: Target,
    /// Its duration; zero for a kill.
    pub duration: Duration,
    /// The delay of a proxy that delays.
    pub delay: Duration,
}

/// The numbers of targets.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    pub replicas: usize,
    pub proxies: usize,
}

/// The faults of a run of `length`, with `interval` between two on average. The same seed gives the
/// same faults. All end within the run, except for restarts.
pub fn schedule(
    seed: u64,
    length: Duration,
    interval: Duration,
    kinds: &[FaultKind],
    targets: Targets,
) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut busy: HashMap<Target, Duration> = HashMap::new();
    let mut faults = vec![];
    let mut at = FIRST_FAULT;
    loop {
        at += interval.mul_f64(-(1.0 - rng.random::<f64>()).ln()); // exponential
        if at >= length {
            return faults;
        }
        let is_possible = |fault: &Fault| {
            let free = busy.get(&fault.target.exclusive()).is_none_or(|until| *until <= at);
            free && at + fault.duration <= length
        };
        let mut draws = (0..MAX_DRAWS).map(|_| draw(&mut rng, at, kinds, targets));
        if let Some(fault) = draws.find(is_possible) {
            busy.insert(fault.target.exclusive(), at + fault.duration + recovery(fault.kind));
            faults.push(fault);
        }
    }
}

fn draw(rng: &mut StdRng, at: Duration, kinds: &[FaultKind], targets: Targets) -> Fault {
    let kind = *kinds.choose(rng).unwrap_or(&FaultKind::Node);
    let replica = Target::Replica(rng.random_range(0..targets.replicas));
    let backend = Target::Backend(rng.random_range(0..1000));
    let proxy = Target::Proxy(rng.random_range(0..targets.proxies));
    let suspended = *[replica, replica, Target::Broker, backend].choose(rng).unwrap_or(&replica);
    let (suspension, disruption) = (rng.random_range(1.0..5.0), rng.random_range(0.5..5.0));
    let delay = Duration::from_millis(rng.random_range(20..500));
    let (target, seconds) = match kind {
        FaultKind::Node => (replica, 0.0),
        FaultKind::Broker => (Target::Broker, 0.0),
        FaultKind::Backend => (backend, 0.0),
        FaultKind::Postmaster => (Target::Postmaster, 0.0),
        FaultKind::Suspend => (suspended, suspension),
        FaultKind::Cut | FaultKind::Stall | FaultKind::Delay => (proxy, disruption),
    };
    Fault { at, kind, target, duration: Duration::from_secs_f64(seconds), delay }
}

/// The approximate time that a target needs to recover.
fn recovery(kind: FaultKind) -> Duration {
    Duration::from_secs(match kind {
        FaultKind::Broker => 15,
        FaultKind::Postmaster => 5,
        FaultKind::Node | FaultKind::Backend => 3,
        FaultKind::Suspend | FaultKind::Cut | FaultKind::Stall | FaultKind::Delay => 0,
    })
}

/// A fault that happened. Times are in seconds from the start of the load.
#[derive(Clone, Debug, Serialize)]
pub struct FaultRecord {
    pub kind: FaultKind,
    pub target: String,
    pub from: f64,
    /// When it had recovered: a killed process served requests again.
    pub to: f64,
}

/// Injects the faults and waits until the last one has recovered.
pub async fn inject_all(
    environment: &Arc<Environment>,
    faults: &[Fault],
    began: Instant,
) -> anyhow::Result<Vec<FaultRecord>> {
    let records = Arc::new(Mutex::new(vec![]));
    let mut running = JoinSet::new();
    for fault in faults.iter().copied() {
        sleep_until(began + fault.at).await;
        let (environment, records) = (Arc::clone(environment), Arc::clone(&records));
        running.spawn(async move {
            let from = began.elapsed().as_secs_f64();
            let target = environment.name(fault.target);
            eprintln!("{from:8.3} s  {:<10} {target}", fault.kind);
            let limit = fault.duration + RECOVERY_TIMEOUT;
            let recovered = timeout(limit, inject(&environment, fault)).await;
            let to = began.elapsed().as_secs_f64();
            recovered
                .context("it does not recover in time")
                .flatten()
                .with_context(|| format!("{} of {target} at {from:.3} s", fault.kind))?;
            eprintln!("{to:8.3} s  {:<10} {target} has recovered", fault.kind);
            let record = FaultRecord { kind: fault.kind, target, from, to };
            records.lock().expect("no panic").push(record);
            anyhow::Ok(())
        });
    }
    while let Some(recovered) = running.join_next().await {
        recovered??;
    }
    let mut records = std::mem::take(&mut *records.lock().expect("no panic"));
    records.sort_by(|a, b| a.from.total_cmp(&b.from));
    Ok(records)
}

async fn inject(environment: &Environment, fault: Fault) -> anyhow::Result<()> {
    let Fault { kind, target, duration, delay, .. } = fault;
    let Environment { servers, replicas, proxies, .. } = environment;
    match (kind, target) {
        (FaultKind::Node, Target::Replica(index)) => replicas[index].kill().await?,
        (FaultKind::Suspend, Target::Replica(index)) => replicas[index].suspend(duration).await?,
        (FaultKind::Broker, _) => servers.kill_broker().await?,
        (FaultKind::Suspend, Target::Broker) => servers.suspend_broker(duration).await?,
        (FaultKind::Postmaster, _) => servers.kill_postmaster().await?,
        (FaultKind::Backend, Target::Backend(choice)) => servers.kill_backend(choice).await?,
        (FaultKind::Suspend, Target::Backend(choice)) => {
            servers.suspend_backend(choice, duration).await?
        }
        (FaultKind::Cut, Target::Proxy(index)) => proxies[index].cut(duration).await,
        (FaultKind::Stall, Target::Proxy(index)) => proxies[index].stall(duration).await,
        (FaultKind::Delay, Target::Proxy(index)) => proxies[index].delay(delay, duration).await,
        (kind, target) => bail!("{target:?} cannot have the fault {kind}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets { replicas: 5, proxies: 19 };
    const LENGTH: Duration = Duration::from_secs(600);
    const INTERVAL: Duration = Duration::from_secs(2);

    fn faults(seed: u64) -> Vec<Fault> {
        schedule(seed, LENGTH, INTERVAL, &FaultKind::ALL, TARGETS)
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn a_schedule_has_every_kind_and_about_the_requested_number_of_faults() {
        for seed in 0..50 {
            let faults = faults(seed);
            assert!((200..400).contains(&faults.len()), "{}", faults.len());
            assert!(
                FaultKind::ALL.iter().all(|kind| faults.iter().any(|fault| fault.kind == *kind))
            );
        }
        let only = schedule(7, LENGTH, INTERVAL, &[FaultKind::Stall], TARGETS);
        assert!(!only.is_empty() && only.iter().all(|fault| fault.kind == FaultKind::Stall));
    }

    #[test]
    fn faults_of_a_target_do_not_overlap_and_end_within_the_run() {
        for seed in 0..50 {
            let mut until: HashMap<Target, Duration> = HashMap::new();
            for fault in faults(seed) {
                let before = until.insert(fault.target.exclusive(), fault.at + fault.duration);
                assert!(before.is_none_or(|before| before <= fault.at), "{fault:?}");
                assert!(fault.at + fault.duration <= LENGTH, "{fault:?}");
            }
        }
    }
}
