//! The sections of the benchmark.

mod events;
mod first_order;
mod lists;
mod login;
mod memory;
mod metrics;
mod order;
mod orders;
mod pages;
mod start;

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::environment::Environment;
use crate::figures::{Curve, Figure, Outcome, Run, Subject};
use crate::processes::ProcessTrees;
use crate::wrk::Load;

/// The environment and the options of a run.
#[derive(Debug)]
pub struct Bench {
    pub environment: Environment,
    pub rounds: u32,
    /// Duration of one measurement.
    pub seconds: u64,
    /// Measure with a million products and a million orders, too.
    pub big: bool,
    /// Number of outbox events in [`Section::Events`].
    pub backlog: i64,
}

/// Duration of the load before the first measurement of each kind.
pub const WARM_UP_SECONDS: u64 = 1;

/// A group of related measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// A list of 100 products; baseline: a server of the same bytes.
    Lists,
    /// One order; baseline: a server with one query.
    Order,
    /// Placing orders; baseline: pgbench.
    Orders,
    /// Logins; baseline: bcrypt alone. Lists during logins.
    Login,
    /// Delay until the first order of a new user is accepted.
    FirstOrder,
    /// Relaying and applying events; baseline: publishing alone.
    Events,
    /// Pages and whole lists by the size of the catalogue.
    Pages,
    /// Memory of three nodes in one process.
    Memory,
    /// Startup time of three nodes in one process.
    Start,
    /// Cost of metrics.
    Metrics,
}

impl Section {
    /// Measures the section. After an error, `outcome` holds the measurements made before it.
    pub async fn measure(self, bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
        match self {
            Section::Lists => lists::measure(bench, outcome).await,
            Section::Order => order::measure(bench, outcome).await,
            Section::Orders => orders::measure(bench, outcome).await,
            Section::Login => login::measure(bench, outcome).await,
            Section::FirstOrder => first_order::measure(bench, outcome).await,
            Section::Events => events::measure(bench, outcome).await,
            Section::Pages => pages::measure(bench, outcome).await,
            Section::Memory => memory::measure(bench, outcome).await,
            Section::Start => start::measure(bench, outcome).await,
            Section::Metrics => metrics::measure(bench, outcome).await,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("a section", |name| name.get_name()))
    }
}

/// A server that receives load.
#[derive(Clone, Debug)]
pub struct ServerUnderTest {
    pub subject: Subject,
    pub url: String,
    /// Its processes.
    pub trees: ProcessTrees,
}

/// Measures each server once per round, one after the other.
pub async fn measure_alternately(
    bench: &Bench,
    what: &str,
    servers: &[ServerUnderTest],
    load: impl Fn(&str, u64) -> Load,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    for round in 0..bench.rounds {
        for ServerUnderTest { subject, url, trees } in servers {
            if round == 0 {
                bench.environment.load(*subject, trees, &load(url, WARM_UP_SECONDS)).await?;
            }
            let run = bench.environment.load(*subject, trees, &load(url, bench.seconds)).await?;
            outcome.runs.push(run.named(what));
        }
    }
    Ok(())
}

/// Adds curves of rate, p50 and p99 by the number of connections. `what` returns the name of the
/// measurement with a number of connections.
pub fn add_curves(
    outcome: &mut Outcome,
    connections: &[u32],
    what: impl Fn(u32) -> String,
    names: [&str; 3],
) -> anyhow::Result<()> {
    let figures: [fn(&Run) -> Option<f64>; 3] =
        [|run| Some(run.per_second), |run| run.p50_ms, |run| run.p99_ms];
    for (name, figure) in names.into_iter().zip(figures) {
        let points = connections.iter().map(|connections| {
            let what = what(*connections);
            let figure = Figure::among(outcome.runs_of(Subject::Shop, &what), figure)?;
            Ok((f64::from(*connections), figure.median))
        });
        let points = points.collect::<anyhow::Result<_>>()?;
        outcome.curves.push(Curve { name: name.to_owned(), points });
    }
    Ok(())
}
