//! Memory of three nodes in one process: while nobody asks, and under load.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use tokio::time::sleep;

use super::{Bench, lists, orders};
use crate::figures::{Figure, Outcome, Row, Target, Who, megabytes};
use crate::processes::{forget_most_memory, memory};
use crate::seed::{Stock, drained};
use crate::shop::Layout;

const LISTS: &str = "GET products from one process, beside orders";
const ORDERS: &str = "POST order to one process, beside lists";
const IDLE: Duration = Duration::from_secs(3);
const CONNECTIONS: u32 = 32;

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let (mut idle, mut busy) = (vec![], vec![]);
    stand.stocked(Stock::SMALL).await?;
    for _ in 0..bench.rounds {
        let shop = stand.run(Layout::OneProcess, &[]).await?;
        let pid = shop.pid(Node::Order);
        let resident = |name| memory(pid, name).map(megabytes).context("the process is gone");
        sleep(IDLE).await;
        idle.push(resident("VmRSS")?);
        forget_most_memory(pid)?;
        let url = shop.url(Node::Catalog, lists::PATH);
        let list = lists::load(bench, &url, 1, CONNECTIONS, bench.seconds);
        let order = orders::load(bench, &shop, CONNECTIONS, bench.seconds);
        let watched = shop.watched();
        let (listed, ordered) = tokio::try_join!(
            stand.load(Who::Shop, &watched, &list),
            stand.load(Who::Shop, &watched, &order)
        )?;
        busy.push(resident("VmHWM")?);
        outcome.runs.extend([listed.named(LISTS), ordered.named(ORDERS)]);
        drained(stand).await?;
        shop.stop().await?;
    }
    let (idle, busy) = (Figure::of(idle)?, Figure::of(busy)?);
    outcome.rows.extend([
        Row::alone("memory of three idle nodes in one process", "MB", idle, Target::AtMost(60.0)),
        Row::alone("at most, under orders and lists", "MB", busy, Target::AtMost(150.0)),
    ]);
    Ok(())
}
