//! Placing orders of two items, beside pgbench with an order a transaction.

use shop_supervisor::Node;

use super::{Bench, WARM_UP_SECONDS, draw};
use crate::chart::{LIMIT_RATE, ORDER_P50, ORDER_P99, ORDER_RATE};
use crate::figures::{Curve, Figure, Outcome, Row, Run, Target, Who};
use crate::pgbench::Pgbench;
use crate::seed::{Stock, drained};
use crate::shop::Shop;
use crate::wrk::{Load, Script};

pub const PATH: &str = "/order";
const CONNECTIONS: [u32; 4] = [32, 64, 128, 256];
const CLIENTS: [u32; 4] = [1, 8, 32, 64];
const DRAIN: &str = "orders placed, and applied by the catalog";
const HALF_LOAD: &str = "POST order at half that load";
/// Many, each of which waits most of the time: so requests arrive at random.
const HALF_LOAD_CONNECTIONS: u32 = 256;
const MILLION: i64 = 1_000_000;
const AMONG_A_MILLION: &str = "POST order among 1,000,000, 64 connections";

fn by_shop(connections: u32) -> String {
    format!("POST order, {connections} connections")
}

fn by_pgbench(clients: u32) -> String {
    format!("pgbench, {clients} clients")
}

/// Orders by everybody, of two products each.
pub fn load(bench: &Bench, shop: &Shop, connections: u32, seconds: u64) -> Load {
    let buyers = bench.stand.people.buyers.clone();
    Load {
        url: shop.url(Node::Order, PATH),
        script: Script::PlaceOrders { buyers, products: Stock::SMALL.products },
        threads: 1,
        connections,
        seconds,
        rate: None,
    }
}

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let shop = stand.shop_with(Stock::SMALL).await?;
    let pgbench = Pgbench::prepare(stand).await?;
    let mut drains = vec![];
    for round in 0..bench.rounds {
        for (connections, clients) in CONNECTIONS.into_iter().zip(CLIENTS) {
            if round == 0 {
                let warm_up = load(bench, &shop, connections, WARM_UP_SECONDS);
                stand.load(Who::Shop, &shop.watched(), &warm_up).await?;
                drained(stand).await?;
                pgbench.run(clients, WARM_UP_SECONDS).await?;
            }
            let load = load(bench, &shop, connections, bench.seconds);
            let run = stand.load(Who::Shop, &shop.watched(), &load).await?;
            let drain = drained(stand).await?;
            drains.push(run.requests as f64 / (run.seconds + drain));
            outcome
                .runs
                .push(Run { drain_seconds: Some(drain), ..run }.named(by_shop(connections)));
            let run = pgbench.run(clients, bench.seconds).await?;
            outcome.runs.push(run.named(by_pgbench(clients)));
        }
    }
    let worst = compare(outcome)?;
    half_load(bench, &shop, worst / 2.0, outcome).await?;
    outcome.rows.push(Row::shown(DRAIN, "/s", Figure::of(drains)?));
    let drains = outcome.runs.iter().filter_map(|run| run.drain_seconds).collect();
    outcome.rows.push(Row::shown("drain after the load", "s", Figure::of(drains)?));
    shop.stop().await?;
    if bench.big {
        among_a_million(bench, outcome).await?;
    }
    Ok(())
}

/// The shop at its worst beside pgbench at its best. Says the shop's rate.
fn compare(outcome: &mut Outcome) -> anyhow::Result<f64> {
    let rates = |who, names: [String; 4]| {
        let rates = names.into_iter().map(|name| Ok((outcome.rate(who, &name)?, name)));
        rates.collect::<anyhow::Result<Vec<_>>>()
    };
    let slowest =
        |(a, _): &(Figure, String), (b, _): &(Figure, String)| a.median.total_cmp(&b.median);
    let shop = rates(Who::Shop, CONNECTIONS.map(by_shop))?;
    let limit = rates(Who::Limit, CLIENTS.map(by_pgbench))?;
    let worst = shop.iter().min_by(|a, b| slowest(a, b)).cloned();
    let best = limit.iter().max_by(|a, b| slowest(a, b)).cloned();
    let (Some((worst, connections)), Some((best, clients))) = (worst, best) else {
        anyhow::bail!("nothing was measured");
    };
    let rate = worst.median;
    draw(outcome, &CONNECTIONS, by_shop, [ORDER_RATE, ORDER_P50, ORDER_P99])?;
    let line = CONNECTIONS.map(|connections| (f64::from(connections), best.median)).to_vec();
    outcome.curves.push(Curve { name: LIMIT_RATE.to_owned(), points: line });
    outcome.rows.extend(shop.into_iter().map(|(rate, name)| Row::shown(name, "/s", rate)));
    outcome.rows.extend(limit.into_iter().map(|(rate, name)| Row::of_limit(name, "/s", rate)));
    let what = format!("{connections} (the worst), beside {clients} (its best)");
    outcome.rows.push(Row::compared(what, "/s", worst, best, Target::RatioAtLeast(3.0)));
    Ok(rate)
}

async fn half_load(
    bench: &Bench,
    shop: &Shop,
    rate: f64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let load =
        |seconds| Load { rate: Some(rate), ..load(bench, shop, HALF_LOAD_CONNECTIONS, seconds) };
    let stand = &bench.stand;
    stand.load(Who::Shop, &shop.watched(), &load(WARM_UP_SECONDS)).await?;
    for _ in 0..bench.rounds {
        let run = stand.load(Who::Shop, &shop.watched(), &load(bench.seconds)).await?;
        outcome.runs.push(run.named(HALF_LOAD));
        drained(stand).await?;
    }
    let figure = |figure: fn(&Run) -> Option<f64>| {
        Figure::among(outcome.runs_of(Who::Shop, HALF_LOAD), figure)
    };
    let (offered, p50) = (figure(|run| Some(run.per_second))?, figure(|run| run.p50_ms)?);
    let (p99, p999) = (figure(|run| run.p99_ms)?, figure(|run| run.p999_ms)?);
    outcome.rows.extend([
        Row::shown(HALF_LOAD, "/s", offered),
        Row::shown(format!("{HALF_LOAD}, p50"), "ms", p50),
        Row::alone(format!("{HALF_LOAD}, p99"), "ms", p99, Target::AtMost(50.0)),
        Row::shown(format!("{HALF_LOAD}, p99.9"), "ms", p999),
    ]);
    Ok(())
}

async fn among_a_million(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let shop = stand.shop_with(Stock { orders: MILLION, ..Stock::SMALL }).await?;
    for round in 0..bench.rounds {
        if round == 0 {
            let warm_up = load(bench, &shop, 64, WARM_UP_SECONDS);
            stand.load(Who::Shop, &shop.watched(), &warm_up).await?;
            drained(stand).await?;
        }
        let load = load(bench, &shop, 64, bench.seconds);
        let run = stand.load(Who::Shop, &shop.watched(), &load).await?;
        outcome.runs.push(run.named(AMONG_A_MILLION));
        drained(stand).await?;
    }
    let many = outcome.rate(Who::Shop, AMONG_A_MILLION)?;
    outcome.rows.push(Row::shown(AMONG_A_MILLION, "/s", many));
    shop.stop().await
}
