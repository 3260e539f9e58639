//! Crash test: panics the actor, and then ends the process, at every failpoint on the path of a
//! change, and checks that no acknowledged change is lost or applied twice. The failpoints are read
//! from the sources: an await without a failpoint and a failpoint that is never reached are
//! failures.

mod failpoints;
mod operation;
mod oracle;
mod process;
mod scenario;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use futures::future::try_join_all;
use shop_runtime::failpoint::FailAction;

use crate::scenario::Scenario;

/// Number of shops that are tested concurrently. Each takes its share of the failpoints.
const SCENARIOS: usize = 4;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = if process::is_child() {
        runtime.block_on(process::run_child())
    } else {
        runtime.block_on(visit_all(&std::env::args().nth(1).unwrap_or_default()))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Visits every failpoint whose name contains `filter`.
async fn visit_all(filter: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    failpoints::check_parser();
    // Options of the standard test harness are ignored.
    let filter = if filter.starts_with('-') { "" } else { filter };
    let names: Vec<_> =
        failpoints::all()?.into_iter().filter(|name| name.contains(filter)).collect();
    ensure!(!names.is_empty(), "no failpoint has a name that contains {filter:?}");
    let share = |first: usize| names.iter().skip(first).step_by(SCENARIOS).collect::<Vec<_>>();
    let shares = (0..SCENARIOS).map(share).filter(|share| !share.is_empty());
    try_join_all(shares.map(async |failpoints| {
        let mut scenario = Scenario::start().await?;
        for failpoint in failpoints {
            for action in [FailAction::Actor, FailAction::Process] {
                scenario.visit(failpoint, action).await?;
            }
        }
        scenario.finish().await
    }))
    .await?;
    println!(
        "{} failpoints visited twice in {:.0?}: no change lost, none applied twice",
        names.len(),
        since.elapsed()
    );
    Ok(())
}
