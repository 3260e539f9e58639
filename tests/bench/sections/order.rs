//! One order. Baseline: a server that reads it with one query on an open connection.

use anyhow::{Context, ensure};
use serde_json::Value;
use shop_supervisor::Node;

use super::lists::fetch;
use super::{Bench, ServerUnderTest, measure_alternately};
use crate::figures::{Outcome, Row, Subject, Target};
use crate::machine::cores;
use crate::seed::Stock;
use crate::wrk::{Load, Script};

const FOUR_THOUSAND: i64 = 4_000;
const THOUSAND: i64 = 1_000;
const MILLION: i64 = 1_000_000;
const CONNECTIONS: u32 = 32;
/// Connections per core in the second measurement. It shows whether one per core is the bound.
const CONNECTIONS_PER_CORE: usize = 4;

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let name = "GET one order of 4,000";
    measure_both(bench, FOUR_THOUSAND, name, cores(), outcome).await?;
    let (shop, limit) =
        (outcome.rate(Subject::Shop, name)?, outcome.rate(Subject::Baseline, name)?);
    outcome.rows.push(Row::compared_with_target(
        name,
        "/s",
        shop,
        limit,
        Target::RatioAtLeast(0.60),
    ));
    let connections = CONNECTIONS_PER_CORE * cores();
    let name = format!("{name}, baseline with {connections} database connections");
    measure_both(bench, FOUR_THOUSAND, &name, connections, outcome).await?;
    add_row(&name, outcome)?;
    if bench.big {
        for (orders, what) in
            [(THOUSAND, "GET one order of 1,000"), (MILLION, "GET one order of 1,000,000")]
        {
            measure_both(bench, orders, what, cores(), outcome).await?;
            add_row(what, outcome)?;
        }
    }
    Ok(())
}

fn add_row(what: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (shop, limit) =
        (outcome.rate(Subject::Shop, what)?, outcome.rate(Subject::Baseline, what)?);
    outcome.rows.push(Row::compared(what, "/s", shop, limit));
    Ok(())
}

/// Measures the shop and a baseline server with this number of database connections.
async fn measure_both(
    bench: &Bench,
    orders: i64,
    what: &str,
    database_connections: usize,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let shop = environment.start_shop_with(Stock { orders, ..Stock::SMALL }).await?;
    let database_port = environment.database_port().to_string();
    let database_connections = database_connections.to_string();
    let arguments = [
        "baseline-order",
        "--database-port",
        &database_port,
        "--connections",
        &database_connections,
    ];
    let (baseline, baseline_url) = environment.start_baseline(&arguments).await?;
    let url = shop.url(Node::Order, "");
    let token = &environment.users.buyers.first().context("no buyers")?.token;
    let fetch_order = async |url: &str| {
        let bytes = fetch(&format!("{url}/order/{orders}"), token).await?;
        anyhow::Ok(serde_json::from_slice::<Value>(&bytes)?)
    };
    ensure!(
        fetch_order(&url).await? == fetch_order(&baseline_url).await?,
        "the baseline's order differs"
    );
    let load = |url: &str, seconds| Load {
        url: url.to_owned(),
        script: Script::GetNumbered {
            token: token.clone(),
            path: "/order/%d".to_owned(),
            first: 1,
            last: orders,
        },
        threads: 2,
        connections: CONNECTIONS,
        seconds,
        rate: None,
    };
    let servers = [
        ServerUnderTest { subject: Subject::Shop, url, trees: shop.process_trees() },
        ServerUnderTest {
            subject: Subject::Baseline,
            url: baseline_url,
            trees: baseline.process_trees(),
        },
    ];
    measure_alternately(bench, what, &servers, load, outcome).await?;
    baseline.kill().await?;
    shop.stop().await
}
