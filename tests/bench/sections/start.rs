//! From exec to ready: three nodes in one process, on servers that run and databases that are there.

use tokio::time::Instant;

use super::Bench;
use crate::figures::{Figure, Outcome, Row, Target};
use crate::seed::Stock;
use crate::shop::Layout;

const LEAST_STARTS: u32 = 7;

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    bench.stand.stocked(Stock::SMALL).await?;
    let mut took = vec![];
    for _ in 0..bench.rounds.max(LEAST_STARTS) {
        let since = Instant::now();
        let shop = bench.stand.run(Layout::OneProcess, &[]).await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
        shop.stop().await?;
    }
    let what = "start to ready, three nodes in one process";
    outcome.rows.extend([Row::alone(what, "ms", Figure::of(took)?, Target::AtMost(300.0))]);
    Ok(())
}
