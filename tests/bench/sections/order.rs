//! One order, beside a server that finds it with one query on a connection that it holds.

use anyhow::{Context, ensure};
use serde_json::Value;
use shop_supervisor::Node;

use super::lists::fetch;
use super::{Bench, Contestant, in_turns};
use crate::figures::{Outcome, Row, Target, Who};
use crate::machine::cores;
use crate::seed::Stock;
use crate::wrk::{Load, Script};

const FEW: i64 = 4_000;
const THOUSAND: i64 = 1_000;
const MILLION: i64 = 1_000_000;
const CONNECTIONS: u32 = 32;
/// So many times as many connections to the database as there are cores, to see whether one for each is the limit.
const MORE: usize = 4;

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let few = "GET one order of 4,000";
    beside_limit(bench, FEW, few, cores(), outcome).await?;
    let (shop, limit) = (outcome.rate(Who::Shop, few)?, outcome.rate(Who::Limit, few)?);
    outcome.rows.push(Row::compared(few, "/s", shop, limit, Target::RatioAtLeast(0.60)));
    let held = MORE * cores();
    let more = format!("{few}, beside {held} connections to the database");
    beside_limit(bench, FEW, &more, held, outcome).await?;
    shown(&more, outcome)?;
    if bench.big {
        for (orders, what) in
            [(THOUSAND, "GET one order of 1,000"), (MILLION, "GET one order of 1,000,000")]
        {
            beside_limit(bench, orders, what, cores(), outcome).await?;
            shown(what, outcome)?;
        }
    }
    Ok(())
}

fn shown(what: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (shop, limit) = (outcome.rate(Who::Shop, what)?, outcome.rate(Who::Limit, what)?);
    outcome.rows.push(Row::beside(what, "/s", shop, limit));
    Ok(())
}

/// The shop and a server with so many connections to the database.
async fn beside_limit(
    bench: &Bench,
    orders: i64,
    what: &str,
    held: usize,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let shop = stand.shop_with(Stock { orders, ..Stock::SMALL }).await?;
    let (database_port, held) = (stand.database_port().to_string(), held.to_string());
    let arguments = ["bare-order", "--database-port", &database_port, "--held", &held];
    let (bare, bare_url) = stand.server(&arguments).await?;
    let url = shop.url(Node::Order, "");
    let token = &stand.people.buyers.first().context("there are buyers")?.token;
    let one = async |url: &str| {
        let bytes = fetch(&format!("{url}/order/{orders}"), token).await?;
        anyhow::Ok(serde_json::from_slice::<Value>(&bytes)?)
    };
    ensure!(one(&url).await? == one(&bare_url).await?, "the limit's order differs");
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
    let contestants = [
        Contestant { who: Who::Shop, url, watched: shop.watched() },
        Contestant { who: Who::Limit, url: bare_url, watched: bare.watched() },
    ];
    in_turns(bench, what, &contestants, load, outcome).await?;
    bare.kill().await?;
    shop.stop().await
}
