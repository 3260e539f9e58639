//! The benchmark: measures the shop as three processes and compares it with its baselines,
//! alternately in the same run.

mod baseline;
mod chart;
mod environment;
mod figures;
mod machine;
mod pgbench;
mod processes;
mod programs;
mod report;
mod sections;
mod seed;
mod shop;
mod users;
mod wrk;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use baseline::Baseline;
use clap::{Parser, ValueEnum};
use environment::Environment;
use figures::Outcome;
use machine::Machine;
use report::Report;
use sections::{Bench, Section};

/// Measures the shop and compares it with its baselines.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    baseline: Option<Baseline>,
    /// Number of rounds. Each round measures everything once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Duration of one measurement, in seconds.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The sections to measure. Default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Measure with a million products and a million orders, too.
    #[arg(long)]
    big: bool,
    /// Number of outbox events in the section `events`.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1000..))]
    backlog: i64,
    /// The release binary of the shop. Default: it is built.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Directory of the report and the charts.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

impl Arguments {
    /// The command line that repeats this run.
    fn command(&self) -> String {
        let Arguments { rounds, seconds, only, big, backlog, .. } = self;
        let mut command = format!(
            "cargo run --release --bin bench -- --rounds {rounds} --seconds {seconds} --backlog {backlog}"
        );
        if !only.is_empty() {
            let names = only.iter().map(Section::to_string).collect::<Vec<_>>().join(",");
            command.push_str(&format!(" --only {names}"));
        }
        if let Some(binary) = &self.binary {
            command.push_str(&format!(" --binary {}", binary.display()));
        }
        if *big {
            command.push_str(" --big");
        }
        command
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let complete = match arguments.baseline.take() {
        Some(baseline) => baseline.run().await.map(|()| true),
        None => measure(arguments).await,
    };
    match complete {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every measurement succeeded.
async fn measure(arguments: Arguments) -> anyhow::Result<bool> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let command = arguments.command();
    println!("{command}\n");
    let Arguments { rounds, seconds, big, backlog, only, binary, out, .. } = arguments;
    programs::wrk()?;
    programs::pgbench()?;
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let binary = match binary {
        Some(binary) => binary.canonicalize().context("--binary")?,
        None => shop_tests::release_binary().await?,
    };
    let environment = Environment::start(binary).await?;
    let machine = Machine::detect(&environment).await?;
    let bench = Bench { environment, rounds, seconds, big, backlog };
    let mut sections = BTreeMap::new();
    for section in Section::value_variants() {
        if only.is_empty() || only.contains(section) {
            sections.insert(*section, run_section(*section, &bench).await);
        }
    }
    let complete = sections.values().all(Outcome::is_complete);
    let report = Report { complete, command, machine, rounds, seconds, sections };
    write(&out, &report)?;
    println!("{report}\n{0}/report.json, {0}/report.md, {0}/*.svg", out.display());
    Ok(complete)
}

/// Measures a section. Its failure does not stop the run.
async fn run_section(section: Section, bench: &Bench) -> Outcome {
    let (since, mut outcome) = (Instant::now(), Outcome::default());
    if let Err(error) = section.measure(bench, &mut outcome).await {
        outcome.failures.push(format!("{error:#}"));
    }
    for failure in &outcome.failures {
        eprintln!("{section}: {failure}");
    }
    eprintln!("{section}: {:.0} s", since.elapsed().as_secs_f64());
    outcome
}

fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(report)?)?;
    fs::write(out.join("report.md"), report.to_string())?;
    let charts =
        [("latency.svg", chart::latency(report)), ("catalogue.svg", chart::catalogue(report))];
    for (name, chart) in charts {
        if let Some(svg) = chart {
            fs::write(out.join(name), svg)?;
        }
    }
    Ok(())
}
