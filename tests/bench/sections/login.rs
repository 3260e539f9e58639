//! Logins. Baseline: bcrypt alone. Lists during logins. Baseline: lists without logins.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use tokio::time::sleep;

use super::{Bench, WARM_UP_SECONDS, lists};
use crate::figures::{Figure, Outcome, Row, Run, Subject, Target};
use crate::processes::wait_until_idle;
use crate::seed::Stock;
use crate::shop::Shop;
use crate::users::PASSWORD;
use crate::wrk::{Load, Script};

const PATH: &str = "/api/v1/auth/login";
const LOGIN: &str = "POST login, 16 connections";
const WITHOUT_LOGINS: &str = "GET products, 16 connections, without logins";
const DURING_LOGINS: &str = "GET products, 16 connections, during 16 concurrent logins";
const CONNECTIONS: u32 = 16;
/// A password takes a quarter of a second: a longer measurement counts enough of them.
const SECONDS_FACTOR: u64 = 4;

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let shop = environment.start_shop_with(Stock::SMALL).await?;
    let url = shop.url(Node::Catalog, lists::PATH);
    let list = |seconds| lists::load(bench, &url, 1, CONNECTIONS, seconds);
    for round in 0..bench.rounds {
        let run =
            environment.load(Subject::Shop, &shop.process_trees(), &login(bench, &shop)?).await?;
        outcome.runs.push(run.named(LOGIN));
        wait_until_idle(shop.pid(Node::Auth)).await?; // logins of closed connections still run
        outcome.runs.push(hashes(bench).await?.named(LOGIN));
        if round == 0 {
            environment
                .load(Subject::Baseline, &shop.process_trees(), &list(WARM_UP_SECONDS))
                .await?;
        }
        let run = environment
            .load(Subject::Baseline, &shop.process_trees(), &list(bench.seconds))
            .await?;
        outcome.runs.push(run.named(WITHOUT_LOGINS));
        let logins = Load { seconds: bench.seconds + 2, ..login(bench, &shop)? };
        let no_trees = vec![];
        let (run, _) = tokio::try_join!(
            async {
                sleep(Duration::from_secs(1)).await; // until every connection waits for a login
                environment.load(Subject::Shop, &shop.process_trees(), &list(bench.seconds)).await
            },
            environment.load(Subject::Shop, &no_trees, &logins)
        )?;
        outcome.runs.push(run.named(DURING_LOGINS));
        wait_until_idle(shop.pid(Node::Auth)).await?;
    }
    shop.stop().await?;
    compare(outcome)?;
    Ok(())
}

fn compare(outcome: &mut Outcome) -> anyhow::Result<()> {
    let (logins, hashes) =
        (outcome.rate(Subject::Shop, LOGIN)?, outcome.rate(Subject::Baseline, LOGIN)?);
    let (during, without) = (
        outcome.rate(Subject::Shop, DURING_LOGINS)?,
        outcome.rate(Subject::Baseline, WITHOUT_LOGINS)?,
    );
    let p99 = |subject, what| Figure::among(outcome.runs_of(subject, what), |run| run.p99_ms);
    let (p99_during, p99_without) =
        (p99(Subject::Shop, DURING_LOGINS)?, p99(Subject::Baseline, WITHOUT_LOGINS)?);
    let p99_name = format!("{DURING_LOGINS}, p99");
    outcome.rows.extend([
        Row::compared_with_target(LOGIN, "/s", logins, hashes, Target::RatioAtLeast(0.95)),
        Row::compared_with_target(DURING_LOGINS, "/s", during, without, Target::RatioAtLeast(0.40)),
        Row::compared_with_target(
            p99_name,
            "ms",
            p99_during,
            p99_without,
            Target::RatioAtMost(5.0),
        ),
    ]);
    Ok(())
}

fn login(bench: &Bench, shop: &Shop) -> anyhow::Result<Load> {
    let buyer = bench.environment.users.buyers.first().context("no buyers")?;
    Ok(Load {
        url: shop.url(Node::Auth, PATH),
        script: Script::LogIn { username: buyer.username.clone(), password: PASSWORD.to_owned() },
        threads: 1,
        connections: CONNECTIONS,
        seconds: SECONDS_FACTOR * bench.seconds,
        rate: None,
    })
}

async fn hashes(bench: &Bench) -> anyhow::Result<Run> {
    let seconds = SECONDS_FACTOR * bench.seconds;
    let verified = bench
        .environment
        .run_baseline(&["baseline-hash", "--seconds", &seconds.to_string()])
        .await?;
    Ok(Run::of_rate(Subject::Baseline, 0, seconds as f64, verified.parse()?))
}
