//! What is measured, section by section.

mod events;
mod instruments;
mod lists;
mod login;
mod memory;
mod news;
mod order;
mod orders;
mod pages;
mod start;

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::figures::{Curve, Figure, Outcome, Run, Who};
use crate::processes::Watched;
use crate::stand::Stand;
use crate::wrk::Load;

/// How much is measured, and on what.
#[derive(Debug)]
pub struct Bench {
    pub stand: Stand,
    pub rounds: u32,
    /// Of one measurement.
    pub seconds: u64,
    /// Whether there are sizes of a million.
    pub big: bool,
    /// How many events wait for the relay.
    pub backlog: i64,
}

/// Before the first measurement of its kind.
pub const WARM_UP_SECONDS: u64 = 1;

/// A section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// A list of 100 products, beside a server of the same bytes.
    Lists,
    /// One order, beside a server with one query.
    Order,
    /// Placing orders, beside pgbench.
    Orders,
    /// Signing in, beside bcrypt alone, and what it leaves of everything else.
    Login,
    /// How soon a node knows of who just signed up.
    News,
    /// Events relayed and applied, beside publishing alone.
    Events,
    /// Pages and whole lists, by the size of the catalogue.
    Pages,
    /// Memory of three nodes in one process.
    Memory,
    /// Start to ready of three nodes in one process.
    Start,
    /// What counting and measuring cost.
    Instruments,
}

impl Section {
    /// Measures it. What was measured before something went wrong is kept.
    pub async fn measure(self, bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
        match self {
            Section::Lists => lists::measure(bench, outcome).await,
            Section::Order => order::measure(bench, outcome).await,
            Section::Orders => orders::measure(bench, outcome).await,
            Section::Login => login::measure(bench, outcome).await,
            Section::News => news::measure(bench, outcome).await,
            Section::Events => events::measure(bench, outcome).await,
            Section::Pages => pages::measure(bench, outcome).await,
            Section::Memory => memory::measure(bench, outcome).await,
            Section::Start => start::measure(bench, outcome).await,
            Section::Instruments => instruments::measure(bench, outcome).await,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("a section", |name| name.get_name()))
    }
}

/// A server under load.
#[derive(Clone, Debug)]
pub struct Contestant {
    pub who: Who,
    pub url: String,
    /// The processes that it consists of.
    pub watched: Watched,
}

/// Loads them in turns, round by round.
pub async fn in_turns(
    bench: &Bench,
    what: &str,
    contestants: &[Contestant],
    load: impl Fn(&str, u64) -> Load,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    for round in 0..bench.rounds {
        for Contestant { who, url, watched } in contestants {
            if round == 0 {
                bench.stand.load(*who, watched, &load(url, WARM_UP_SECONDS)).await?;
            }
            let run = bench.stand.load(*who, watched, &load(url, bench.seconds)).await?;
            outcome.runs.push(run.named(what));
        }
    }
    Ok(())
}

/// Points by the number of connections, for rate, p50 and p99, of what is called `what` with so many.
pub fn draw(
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
            let figure = Figure::among(outcome.runs_of(Who::Shop, &what), figure)?;
            Ok((f64::from(*connections), figure.median))
        });
        let points = points.collect::<anyhow::Result<_>>()?;
        outcome.curves.push(Curve { name: name.to_owned(), points });
    }
    Ok(())
}
