//! The torture test: loads the shop with all its writes while everything that can break breaks, and then compares
//! what the clients were told with what the databases hold.

mod faults;
mod load;
mod records;
mod report;
mod shop;
mod timeline;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use faults::Kind;
use load::Load;
use records::Records;
use report::{Report, Run};
use shop::Shop;
use timeline::Timeline;
use tokio::task::JoinSet;

/// Loads the shop while everything that can break breaks, and says whether anything was lost or sold twice.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long clients and faults go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many clients there are.
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// How much they do together: at most so many actions per second.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Repeats a schedule of faults; made up when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// What goes wrong.
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL)]
    faults: Vec<Kind>,
    /// A fault every so many seconds on average.
    #[arg(long, default_value_t = 2.0)]
    every: f64,
    /// How many seconds after the last fault all copies must be equal.
    #[arg(long, default_value_t = 10.0)]
    converge: f64,
    /// The release binary; built when left out.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where report, picture and logs go.
    #[arg(long, default_value = "target/torture")]
    out: PathBuf,
}

impl Arguments {
    /// What repeats the schedule.
    fn command(&self, seed: u64) -> String {
        let Arguments { seconds, clients, rate, every, converge, .. } = self;
        let faults = self.faults.iter().map(Kind::to_string).collect::<Vec<_>>().join(",");
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
            ExitCode::from(2) // the test itself could not go on
        }
    }
}

/// Whether the shop stood it.
async fn torture(arguments: Arguments) -> anyhow::Result<bool> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let command = arguments.command(seed);
    println!("{command}\n");
    let Arguments { clients, rate, out, .. } = &arguments;
    let length = Duration::from_secs(arguments.seconds);
    let every = Duration::from_secs_f64(arguments.every);
    let schedule = faults::schedule(seed, length, every, &arguments.faults, Shop::targets());

    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().context("--binary")?,
        None => shop_tests::release_binary().await?,
    };
    let logs = out.join("logs");
    fs::remove_dir_all(&logs).ok();
    let shop = Arc::new(Shop::start(binary, &logs).await?);

    let load = Arc::new(Load::new(&shop, seed, *clients, *rate, length)?);
    let began = load.began();
    let (past, (records, last_answer)) = tokio::try_join!(
        async {
            let past = faults::happen(&shop, &schedule, began).await?;
            anyhow::Ok((past, began.elapsed().max(length).as_secs_f64()))
        },
        async {
            let records = drive(load, *clients).await?;
            anyhow::Ok((records, began.elapsed().as_secs_f64()))
        },
    )?;
    let (past, healed) = past;
    eprintln!("{healed:8.3} s  all is healed; {last_answer:.3} s  every write is resolved");

    let converged = verdict::converged(&shop).await?;
    let converged = converged.map(|at| at.duration_since(began).as_secs_f64());
    let verdict = verdict::judge(&shop, &records, converged.is_ok()).await?;
    let ledger = shop.verify().await?;
    let ended_by_themselves = shop.ends();
    let ended_badly = shop.stop().await;
    shop.keep_logs(&logs).await?;

    let report = Report::of(Run {
        command,
        seed,
        seconds: length.as_secs_f64(),
        clients: *clients,
        converge_within: arguments.converge,
        records: &records,
        faults: past,
        converged: converged.clone().map(|at| at - healed),
        verdict,
        ledger,
        ended_by_themselves,
        ended_badly,
    });
    let timeline = Timeline {
        title: format!("{} s, {clients} clients, seed {seed}", arguments.seconds),
        seconds: &records.seconds,
        faults: &report.past_faults,
        load_ended: last_answer,
        converged: converged.ok(),
    };
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    fs::write(out.join("timeline.svg"), timeline.draw())?;
    println!("\n{report}");
    println!("{0}/report.json, {0}/timeline.svg; logs: {0}/logs", out.display());
    println!("The same schedule again:\n  {}", report.command);
    Ok(report.good)
}

/// All clients, until every write is resolved.
async fn drive(load: Arc<Load>, clients: u32) -> anyhow::Result<Records> {
    let mut records = load.stock().await;
    let mut running = JoinSet::new();
    for number in 1..=u64::from(clients) {
        running.spawn(Arc::clone(&load).client(number));
    }
    while let Some(told) = running.join_next().await {
        records.merge(told?);
    }
    Ok(records)
}
