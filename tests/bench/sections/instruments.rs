//! What counting and measuring cost: the shop as it is, beside itself without metrics.

use anyhow::bail;
use shop_supervisor::Node;

use super::{Bench, WARM_UP_SECONDS, lists, orders};
use crate::figures::{Outcome, Row, Target, Who};
use crate::seed::{Stock, drained};
use crate::shop::Layout;

const LISTS: &str = "GET products, with and without metrics";
const ORDERS: &str = "POST order, with and without metrics";
const KEY: &str = "SHOP__TELEMETRY__METRICS";
const CONNECTIONS: u32 = 64;
/// The difference is small: many short rounds show it better than a few long ones.
const MORE_ROUNDS: u32 = 3;
const SHORTER: u64 = 2;

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    bench.stand.stocked(Stock::SMALL).await?;
    for round in 0..MORE_ROUNDS * bench.rounds {
        // Whoever is first, is so every other time.
        let order = [Who::Shop, Who::Limit, Who::Limit, Who::Shop];
        for who in &order[if round % 2 == 0 { 0..2 } else { 2..4 }] {
            once(bench, *who, outcome).await?;
        }
    }
    for what in [LISTS, ORDERS] {
        let (with, without) = (outcome.rate(Who::Shop, what)?, outcome.rate(Who::Limit, what)?);
        outcome.rows.push(Row::compared(what, "/s", with, without, Target::RatioAtLeast(0.97)));
    }
    Ok(())
}

async fn once(bench: &Bench, who: Who, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let without = [(KEY.to_owned(), "false".to_owned())];
    let more: &[_] = if who == Who::Shop { &[] } else { &without };
    let shop = match stand.run(Layout::ThreeProcesses, more).await {
        Ok(shop) => shop,
        Err(error) if error.to_string().contains("telemetry.metrics") => {
            bail!("this shop cannot be run without metrics: {error}")
        }
        Err(error) => return Err(error),
    };
    let (watched, url) = (shop.watched(), shop.url(Node::Catalog, lists::PATH));
    let seconds = (bench.seconds / SHORTER).max(1);
    let list = |seconds| lists::load(bench, &url, 1, CONNECTIONS, seconds);
    let order = |seconds| orders::load(bench, &shop, CONNECTIONS, seconds);
    for (what, warm_up, load) in [
        (LISTS, list(WARM_UP_SECONDS), list(seconds)),
        (ORDERS, order(WARM_UP_SECONDS), order(seconds)),
    ] {
        stand.load(who, &watched, &warm_up).await?;
        outcome.runs.push(stand.load(who, &watched, &load).await?.named(what));
    }
    drained(stand).await?;
    shop.stop().await
}
