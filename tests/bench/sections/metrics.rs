//! Cost of metrics: the shop with metrics. Baseline: the shop without metrics.

use anyhow::bail;
use shop_supervisor::Node;

use super::{Bench, WARM_UP_SECONDS, lists, orders};
use crate::figures::{Outcome, Row, Subject, Target};
use crate::seed::{Stock, wait_until_drained};
use crate::shop::Layout;

const LISTS: &str = "GET products, with and without metrics";
const ORDERS: &str = "POST order, with and without metrics";
const KEY: &str = "SHOP__TELEMETRY__METRICS";
const CONNECTIONS: u32 = 64;
/// The difference is small. Many short rounds show it better than a few long ones.
const ROUND_FACTOR: u32 = 3;
const SECONDS_DIVISOR: u64 = 2;

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    bench.environment.reset(Stock::SMALL).await?;
    for round in 0..ROUND_FACTOR * bench.rounds {
        // The subjects alternate in being the first.
        let order = [Subject::Shop, Subject::Baseline, Subject::Baseline, Subject::Shop];
        for subject in &order[if round % 2 == 0 { 0..2 } else { 2..4 }] {
            measure_subject(bench, *subject, outcome).await?;
        }
    }
    for what in [LISTS, ORDERS] {
        let (with, without) =
            (outcome.rate(Subject::Shop, what)?, outcome.rate(Subject::Baseline, what)?);
        outcome.rows.push(Row::compared_with_target(
            what,
            "/s",
            with,
            without,
            Target::RatioAtLeast(0.97),
        ));
    }
    Ok(())
}

async fn measure_subject(
    bench: &Bench,
    subject: Subject,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let without = [(KEY.to_owned(), "false".to_owned())];
    let more: &[_] = if subject == Subject::Shop { &[] } else { &without };
    let shop = match environment.start_shop(Layout::ThreeProcesses, more).await {
        Ok(shop) => shop,
        Err(error) if error.to_string().contains("telemetry.metrics") => {
            bail!("this shop cannot run without metrics: {error}")
        }
        Err(error) => return Err(error),
    };
    let (trees, url) = (shop.process_trees(), shop.url(Node::Catalog, lists::PATH));
    let seconds = (bench.seconds / SECONDS_DIVISOR).max(1);
    let list = |seconds| lists::load(bench, &url, 1, CONNECTIONS, seconds);
    let order = |seconds| orders::load(bench, &shop, CONNECTIONS, seconds);
    for (what, warm_up, load) in [
        (LISTS, list(WARM_UP_SECONDS), list(seconds)),
        (ORDERS, order(WARM_UP_SECONDS), order(seconds)),
    ] {
        environment.load(subject, &trees, &warm_up).await?;
        outcome.runs.push(environment.load(subject, &trees, &load).await?.named(what));
    }
    wait_until_drained(environment).await?;
    shop.stop().await
}
