//! Placing orders of two items. Baseline: pgbench with one order per transaction.

use shop_supervisor::Node;

use super::{Bench, WARM_UP_SECONDS, add_curves};
use crate::chart::{ORDER_P50, ORDER_P99, ORDER_RATE, PGBENCH_RATE};
use crate::figures::{Curve, Figure, Outcome, Row, Run, Subject, Target};
use crate::pgbench::Pgbench;
use crate::seed::{Stock, wait_until_drained};
use crate::shop::Shop;
use crate::wrk::{Load, Script};

pub const PATH: &str = "/order";
const CONNECTIONS: [u32; 4] = [32, 64, 128, 256];
const CLIENTS: [u32; 4] = [1, 8, 32, 64];
const DRAIN: &str = "orders placed and applied by the catalog node";
const HALF_RATE: &str = "POST order at half the lowest rate";
/// Many mostly idle connections, so that requests arrive at random times.
const HALF_RATE_CONNECTIONS: u32 = 256;
const MILLION: i64 = 1_000_000;
const WITH_A_MILLION: &str = "POST order with 1,000,000 existing orders, 64 connections";

fn shop_name(connections: u32) -> String {
    format!("POST order, {connections} connections")
}

fn pgbench_name(clients: u32) -> String {
    format!("pgbench, {clients} clients")
}

/// Orders of two products each, by all buyers.
pub fn load(bench: &Bench, shop: &Shop, connections: u32, seconds: u64) -> Load {
    let buyers = bench.environment.users.buyers.clone();
    Load {
        url: shop.url(Node::Order, PATH),
        script: Script::PlaceOrders { buyers, products: Stock::SMALL.products },
        threads: 1,
        connections,
        seconds,
        rate: None,
    }
}

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let shop = environment.start_shop_with(Stock::SMALL).await?;
    let pgbench = Pgbench::prepare(environment).await?;
    let mut drains = vec![];
    for round in 0..bench.rounds {
        for (connections, clients) in CONNECTIONS.into_iter().zip(CLIENTS) {
            if round == 0 {
                let warm_up = load(bench, &shop, connections, WARM_UP_SECONDS);
                environment.load(Subject::Shop, &shop.process_trees(), &warm_up).await?;
                wait_until_drained(environment).await?;
                pgbench.run(clients, WARM_UP_SECONDS).await?;
            }
            let load = load(bench, &shop, connections, bench.seconds);
            let run = environment.load(Subject::Shop, &shop.process_trees(), &load).await?;
            let drain = wait_until_drained(environment).await?;
            drains.push(run.requests as f64 / (run.seconds + drain));
            outcome
                .runs
                .push(Run { drain_seconds: Some(drain), ..run }.named(shop_name(connections)));
            let run = pgbench.run(clients, bench.seconds).await?;
            outcome.runs.push(run.named(pgbench_name(clients)));
        }
    }
    let lowest = compare(outcome)?;
    half_rate(bench, &shop, lowest / 2.0, outcome).await?;
    outcome.rows.push(Row::shop(DRAIN, "/s", Figure::of(drains)?));
    let drains = outcome.runs.iter().filter_map(|run| run.drain_seconds).collect();
    outcome.rows.push(Row::shop("time until applied, after the load", "s", Figure::of(drains)?));
    shop.stop().await?;
    if bench.big {
        with_a_million(bench, outcome).await?;
    }
    Ok(())
}

/// Compares the shop's lowest rate with pgbench's highest. Returns the shop's lowest rate.
fn compare(outcome: &mut Outcome) -> anyhow::Result<f64> {
    let rates = |subject, names: [String; 4]| {
        let rates = names.into_iter().map(|name| Ok((outcome.rate(subject, &name)?, name)));
        rates.collect::<anyhow::Result<Vec<_>>>()
    };
    let by_rate =
        |(a, _): &(Figure, String), (b, _): &(Figure, String)| a.median.total_cmp(&b.median);
    let shop = rates(Subject::Shop, CONNECTIONS.map(shop_name))?;
    let limit = rates(Subject::Baseline, CLIENTS.map(pgbench_name))?;
    let lowest = shop.iter().min_by(|a, b| by_rate(a, b)).cloned();
    let highest = limit.iter().max_by(|a, b| by_rate(a, b)).cloned();
    let (Some((lowest, connections)), Some((highest, clients))) = (lowest, highest) else {
        anyhow::bail!("nothing was measured");
    };
    let rate = lowest.median;
    add_curves(outcome, &CONNECTIONS, shop_name, [ORDER_RATE, ORDER_P50, ORDER_P99])?;
    let line = CONNECTIONS.map(|connections| (f64::from(connections), highest.median)).to_vec();
    outcome.curves.push(Curve { name: PGBENCH_RATE.to_owned(), points: line });
    outcome.rows.extend(shop.into_iter().map(|(rate, name)| Row::shop(name, "/s", rate)));
    outcome.rows.extend(limit.into_iter().map(|(rate, name)| Row::limit(name, "/s", rate)));
    let what = format!("{connections} (lowest rate), limit: {clients} (highest rate)");
    outcome.rows.push(Row::compared_with_target(
        what,
        "/s",
        lowest,
        highest,
        Target::RatioAtLeast(3.0),
    ));
    Ok(rate)
}

async fn half_rate(
    bench: &Bench,
    shop: &Shop,
    rate: f64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let load =
        |seconds| Load { rate: Some(rate), ..load(bench, shop, HALF_RATE_CONNECTIONS, seconds) };
    let environment = &bench.environment;
    environment.load(Subject::Shop, &shop.process_trees(), &load(WARM_UP_SECONDS)).await?;
    for _ in 0..bench.rounds {
        let run =
            environment.load(Subject::Shop, &shop.process_trees(), &load(bench.seconds)).await?;
        outcome.runs.push(run.named(HALF_RATE));
        wait_until_drained(environment).await?;
    }
    let figure = |figure: fn(&Run) -> Option<f64>| {
        Figure::among(outcome.runs_of(Subject::Shop, HALF_RATE), figure)
    };
    let (rate, p50) = (figure(|run| Some(run.per_second))?, figure(|run| run.p50_ms)?);
    let (p99, p999) = (figure(|run| run.p99_ms)?, figure(|run| run.p999_ms)?);
    outcome.rows.extend([
        Row::shop(HALF_RATE, "/s", rate),
        Row::shop(format!("{HALF_RATE}, p50"), "ms", p50),
        Row::shop_with_target(format!("{HALF_RATE}, p99"), "ms", p99, Target::AtMost(50.0)),
        Row::shop(format!("{HALF_RATE}, p99.9"), "ms", p999),
    ]);
    Ok(())
}

async fn with_a_million(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let shop = environment.start_shop_with(Stock { orders: MILLION, ..Stock::SMALL }).await?;
    for round in 0..bench.rounds {
        if round == 0 {
            let warm_up = load(bench, &shop, 64, WARM_UP_SECONDS);
            environment.load(Subject::Shop, &shop.process_trees(), &warm_up).await?;
            wait_until_drained(environment).await?;
        }
        let load = load(bench, &shop, 64, bench.seconds);
        let run = environment.load(Subject::Shop, &shop.process_trees(), &load).await?;
        outcome.runs.push(run.named(WITH_A_MILLION));
        wait_until_drained(environment).await?;
    }
    let rate = outcome.rate(Subject::Shop, WITH_A_MILLION)?;
    outcome.rows.push(Row::shop(WITH_A_MILLION, "/s", rate));
    shop.stop().await
}
