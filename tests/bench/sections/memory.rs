//! Memory of three nodes in one process: idle and under load.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use tokio::time::sleep;

use super::{Bench, lists, orders};
use crate::figures::{Figure, Outcome, Row, Subject, Target, megabytes};
use crate::processes::{memory, reset_peak_memory};
use crate::seed::{Stock, wait_until_drained};
use crate::shop::Layout;

const LISTS: &str = "GET products from one process, with concurrent orders";
const ORDERS: &str = "POST order to one process, with concurrent lists";
const IDLE: Duration = Duration::from_secs(3);
const CONNECTIONS: u32 = 32;

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let (mut idle, mut loaded) = (vec![], vec![]);
    environment.reset(Stock::SMALL).await?;
    for _ in 0..bench.rounds {
        let shop = environment.start_shop(Layout::OneProcess, &[]).await?;
        let pid = shop.pid(Node::Order);
        let resident = |name| memory(pid, name).map(megabytes).context("the process has ended");
        sleep(IDLE).await;
        idle.push(resident("VmRSS")?);
        reset_peak_memory(pid)?;
        let url = shop.url(Node::Catalog, lists::PATH);
        let list = lists::load(bench, &url, 1, CONNECTIONS, bench.seconds);
        let order = orders::load(bench, &shop, CONNECTIONS, bench.seconds);
        let trees = shop.process_trees();
        let (listed, ordered) = tokio::try_join!(
            environment.load(Subject::Shop, &trees, &list),
            environment.load(Subject::Shop, &trees, &order)
        )?;
        loaded.push(resident("VmHWM")?);
        outcome.runs.extend([listed.named(LISTS), ordered.named(ORDERS)]);
        wait_until_drained(environment).await?;
        shop.stop().await?;
    }
    let (idle, loaded) = (Figure::of(idle)?, Figure::of(loaded)?);
    outcome.rows.extend([
        Row::shop_with_target(
            "memory of three idle nodes in one process",
            "MB",
            idle,
            Target::AtMost(60.0),
        ),
        Row::shop_with_target(
            "peak memory under orders and lists",
            "MB",
            loaded,
            Target::AtMost(150.0),
        ),
    ]);
    Ok(())
}
