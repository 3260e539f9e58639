//! Lets the shop, and then its actors, die at every await on the way of a change, and looks whether anything is lost
//! or done twice. The points are read from the sources: one without a name, or one that nobody comes by, is a failure.

mod life;
mod points;
mod process;
#[expect(dead_code, reason = "the other tests need more of it")]
#[path = "../it/shop.rs"]
mod shop;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use futures::future::try_join_all;
use shop_runtime::failpoint::FailAction;

use crate::life::Life;

/// So many shops live and die side by side.
const LIVES: usize = 4;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = match process::is_child() {
        true => runtime.block_on(process::be_a_shop()),
        false => runtime.block_on(visit_all(&std::env::args().nth(1).unwrap_or_default())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Visits every point whose name contains `filter`.
async fn visit_all(filter: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    points::check();
    // Options of the standard test harness mean nothing here.
    let filter = if filter.starts_with('-') { "" } else { filter };
    let points: Vec<_> = points::all()?.into_iter().filter(|name| name.contains(filter)).collect();
    ensure!(!points.is_empty(), "no crash point is called {filter:?}");
    let share = |life: usize| points.iter().skip(life).step_by(LIVES).collect::<Vec<_>>();
    let lives = (0..LIVES).map(share).filter(|share| !share.is_empty()).map(async |points| {
        let mut life = Life::begin().await?;
        for point in points {
            for victim in [FailAction::Actor, FailAction::Process] {
                life.visit(point, victim).await?;
            }
        }
        life.end().await
    });
    try_join_all(lives).await?;
    println!(
        "{} crash points visited twice in {:.0?}: nothing was lost, nothing done twice",
        points.len(),
        since.elapsed()
    );
    Ok(())
}
