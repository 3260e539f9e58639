//! Signing in, beside checking passwords and nothing else; and lists while everybody signs in.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use tokio::time::sleep;

use super::{Bench, WARM_UP_SECONDS, lists};
use crate::figures::{Figure, Outcome, Row, Run, Target, Who};
use crate::people::PASSWORD;
use crate::processes::idle;
use crate::seed::Stock;
use crate::shop::Shop;
use crate::wrk::{Load, Script};

const PATH: &str = "/api/v1/auth/login";
const LOGIN: &str = "POST login, 16 connections";
const QUIET: &str = "GET products, 16 connections, while nobody signs in";
const BUSY: &str = "GET products, 16 connections, while 16 sign in";
const CONNECTIONS: u32 = 16;
/// A password takes a quarter of a second: there are few to count.
const LONGER: u64 = 4;

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let shop = stand.shop_with(Stock::SMALL).await?;
    let url = shop.url(Node::Catalog, lists::PATH);
    let list = |seconds| lists::load(bench, &url, 1, CONNECTIONS, seconds);
    for round in 0..bench.rounds {
        let run = stand.load(Who::Shop, &shop.watched(), &login(bench, &shop)?).await?;
        outcome.runs.push(run.named(LOGIN));
        idle(shop.pid(Node::Auth)).await?; // those who hung up are still being let in
        outcome.runs.push(hashes(bench).await?.named(LOGIN));
        if round == 0 {
            stand.load(Who::Limit, &shop.watched(), &list(WARM_UP_SECONDS)).await?;
        }
        let run = stand.load(Who::Limit, &shop.watched(), &list(bench.seconds)).await?;
        outcome.runs.push(run.named(QUIET));
        let beside = Load { seconds: bench.seconds + 2, ..login(bench, &shop)? };
        let nothing = vec![];
        let (run, _) = tokio::try_join!(
            async {
                sleep(Duration::from_secs(1)).await; // until all are at it
                stand.load(Who::Shop, &shop.watched(), &list(bench.seconds)).await
            },
            stand.load(Who::Shop, &nothing, &beside)
        )?;
        outcome.runs.push(run.named(BUSY));
        idle(shop.pid(Node::Auth)).await?;
    }
    shop.stop().await?;
    compare(outcome)?;
    Ok(())
}

fn compare(outcome: &mut Outcome) -> anyhow::Result<()> {
    let (logins, hashes) = (outcome.rate(Who::Shop, LOGIN)?, outcome.rate(Who::Limit, LOGIN)?);
    let (busy, quiet) = (outcome.rate(Who::Shop, BUSY)?, outcome.rate(Who::Limit, QUIET)?);
    let p99 = |who, what| Figure::among(outcome.runs_of(who, what), |run| run.p99_ms);
    let (busy_p99, quiet_p99) = (p99(Who::Shop, BUSY)?, p99(Who::Limit, QUIET)?);
    let late = format!("{BUSY}, p99");
    outcome.rows.extend([
        Row::compared(LOGIN, "/s", logins, hashes, Target::RatioAtLeast(0.95)),
        Row::compared(BUSY, "/s", busy, quiet, Target::RatioAtLeast(0.40)),
        Row::compared(late, "ms", busy_p99, quiet_p99, Target::RatioAtMost(5.0)),
    ]);
    Ok(())
}

fn login(bench: &Bench, shop: &Shop) -> anyhow::Result<Load> {
    let buyer = bench.stand.people.buyers.first().context("there are buyers")?;
    Ok(Load {
        url: shop.url(Node::Auth, PATH),
        script: Script::LogIn { username: buyer.username.clone(), password: PASSWORD.to_owned() },
        threads: 1,
        connections: CONNECTIONS,
        seconds: LONGER * bench.seconds,
        rate: None,
    })
}

async fn hashes(bench: &Bench) -> anyhow::Result<Run> {
    let seconds = LONGER * bench.seconds;
    let checked = bench.stand.limit(&["bare-hash", "--seconds", &seconds.to_string()]).await?;
    Ok(Run::of_rate(Who::Limit, 0, seconds as f64, checked.parse()?))
}
