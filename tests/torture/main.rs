//! The torture test: loads the shop with all kinds of writes while faults are injected, and then compares
//! the acknowledged writes with the databases.

mod environment;
mod faults;
mod load;
mod oracle;
mod records;
mod report;
mod timeline;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use environment::Environment;
use faults::FaultKind;
use load::Load;
use records::Records;
use report::{Report, Run};
use timeline::Timeline;
use tokio::task::JoinSet;

/// Loads the shop while faults are injected, and reports lost, duplicated and oversold writes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Duration of load and faults.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of clients.
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// Maximum number of actions per second of all clients.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Seed of the schedule of faults; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of faults.
    #[arg(long, value_delimiter = ',', default_values_t = FaultKind::ALL)]
    faults: Vec<FaultKind>,
    /// Mean time between two faults, in seconds.
    #[arg(long, default_value_t = 2.0)]
    every: f64,
    /// Maximum time from the last fault until the nodes have converged, in seconds.
    #[arg(long, default_value_t = 10.0)]
    converge: f64,
    /// The release binary; built by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Folder of the report, the timeline and the logs.
    #[arg(long, default_value = "target/torture")]
    out: PathBuf,
}

impl Arguments {
    /// The command that repeats the schedule.
    fn command(&self, seed: u64) -> String {
        let Arguments { seconds, clients, rate, every, converge, .. } = self;
        let faults = self.faults.iter().map(FaultKind::to_string).collect::<Vec<_>>().join(",");
        format!(
            "cargo run --release --bin torture -- --seconds {seconds} --clients {clients} \
             --rate {rate} --seed {seed} --faults {faults} --every {every} --converge {converge}"
        )
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match torture(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::from(2) // the test itself failed
        }
    }
}

/// Runs the test; returns whether the shop passed.
async fn torture(arguments: Arguments) -> anyhow::Result<bool> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let command = arguments.command(seed);
    println!("{command}\n");
    let Arguments { clients, rate, out, .. } = &arguments;
    let duration = Duration::from_secs(arguments.seconds);
    let every = Duration::from_secs_f64(arguments.every);
    let schedule =
        faults::schedule(seed, duration, every, &arguments.faults, Environment::targets());

    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().context("--binary")?,
        None => shop_tests::release_binary().await?,
    };
    let logs = out.join("logs");
    fs::remove_dir_all(&logs).ok();
    let environment = Arc::new(Environment::start(binary, &logs).await?);

    let load = Arc::new(Load::new(&environment, seed, *clients, *rate, duration)?);
    let start = load.start();
    let ((past_faults, recovered), (records, last_response)) = tokio::try_join!(
        async {
            let past_faults = faults::inject_all(&environment, &schedule, start).await?;
            anyhow::Ok((past_faults, start.elapsed().max(duration).as_secs_f64()))
        },
        async {
            let records = run(load, *clients).await?;
            anyhow::Ok((records, start.elapsed().as_secs_f64()))
        },
    )?;
    eprintln!(
        "{recovered:8.3} s  all faults have recovered; {last_response:.3} s  all writes are resolved"
    );

    let converged = oracle::until_converged(&environment).await?;
    let converged = converged.map(|at| at.duration_since(start).as_secs_f64());
    let findings = oracle::check(&environment, &records, converged.is_ok()).await?;
    let verification = environment.verify().await?;
    let unexpected_exits = environment.unexpected_exits();
    let failed_stops = environment.stop().await;
    environment.servers.copy_logs(&logs).await?;

    let report = Report::of(Run {
        command,
        seed,
        seconds: duration.as_secs_f64(),
        clients: *clients,
        converge_within: arguments.converge,
        records: &records,
        faults: past_faults,
        converged: converged.clone().map(|at| at - recovered),
        findings,
        verification,
        unexpected_exits,
        failed_stops,
    });
    let timeline = Timeline {
        title: format!("{} s, {clients} clients, seed {seed}", arguments.seconds),
        seconds: &records.seconds,
        faults: &report.past_faults,
        load_ended: last_response,
        converged: converged.ok(),
    };
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    fs::write(out.join("timeline.svg"), timeline.draw())?;
    println!("\n{report}");
    println!("{0}/report.json, {0}/timeline.svg; logs: {0}/logs", out.display());
    println!("To repeat the schedule:\n  {}", report.command);
    Ok(report.passed)
}

/// Runs all clients until every write is resolved.
async fn run(load: Arc<Load>, clients: u32) -> anyhow::Result<Records> {
    let mut records = load.fill_catalog().await;
    let mut running = JoinSet::new();
    for number in 1..=u64::from(clients) {
        running.spawn(Arc::clone(&load).run_client(number));
    }
    while let Some(client) = running.join_next().await {
        records.merge(client?);
    }
    Ok(records)
}
