//! Startup time of three nodes in one process, from exec to ready. Servers run and databases exist.

use tokio::time::Instant;

use super::Bench;
use crate::figures::{Figure, Outcome, Row, Target};
use crate::seed::Stock;
use crate::shop::Layout;

const MIN_STARTS: u32 = 7;

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    bench.environment.reset(Stock::SMALL).await?;
    let mut milliseconds = vec![];
    for _ in 0..bench.rounds.max(MIN_STARTS) {
        let since = Instant::now();
        let shop = bench.environment.start_shop(Layout::OneProcess, &[]).await?;
        milliseconds.push(since.elapsed().as_secs_f64() * 1e3);
        shop.stop().await?;
    }
    let what = "start to ready, three nodes in one process";
    outcome.rows.extend([Row::shop_with_target(
        what,
        "ms",
        Figure::of(milliseconds)?,
        Target::AtMost(300.0),
    )]);
    Ok(())
}
