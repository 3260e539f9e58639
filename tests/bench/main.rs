//! The benchmark: measures the shop, as three processes, beside what limits it, in turns, in one run.

mod bare;
mod chart;
mod figures;
mod machine;
mod people;
mod pgbench;
mod processes;
mod programs;
mod report;
mod sections;
mod seed;
mod shop;
mod stand;
mod wrk;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use bare::Limit;
use clap::{Parser, ValueEnum};
use figures::Outcome;
use machine::Machine;
use report::Report;
use sections::{Bench, Section};
use stand::Stand;

/// Measures the shop beside what limits it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    limit: Option<Limit>,
    /// How often everything is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long one measurement takes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// What is measured; everything when left out.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Also with a million products and a million orders.
    #[arg(long)]
    big: bool,
    /// How many events wait for the relay in `events`.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1000..))]
    backlog: i64,
    /// The release binary of the shop; built when left out.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where report and pictures go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

impl Arguments {
    /// What measures the same again.
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
    let done = match arguments.limit.take() {
        Some(limit) => limit.run().await.map(|()| true),
        None => measure(arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
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
    let stand = Stand::build(binary).await?;
    let machine = Machine::here(&stand).await?;
    let bench = Bench { stand, rounds, seconds, big, backlog };
    let mut sections = BTreeMap::new();
    for section in Section::value_variants() {
        if only.is_empty() || only.contains(section) {
            sections.insert(*section, measured(*section, &bench).await);
        }
    }
    let complete = sections.values().all(Outcome::is_complete);
    let report = Report { complete, command, machine, rounds, seconds, sections };
    write(&out, &report)?;
    println!("{report}\n{0}/report.json, {0}/report.md, {0}/*.svg", out.display());
    Ok(complete)
}

/// A section that cannot be measured does not keep others from it.
async fn measured(section: Section, bench: &Bench) -> Outcome {
    let (since, mut outcome) = (Instant::now(), Outcome::default());
    if let Err(error) = section.measure(bench, &mut outcome).await {
        outcome.trouble.push(format!("{error:#}"));
    }
    for trouble in &outcome.trouble {
        eprintln!("{section}: {trouble}");
    }
    eprintln!("{section}: {:.0} s", since.elapsed().as_secs_f64());
    outcome
}

fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(report)?)?;
    fs::write(out.join("report.md"), report.to_string())?;
    let pictures =
        [("latency.svg", chart::latency(report)), ("catalogue.svg", chart::catalogue(report))];
    for (name, picture) in pictures {
        if let Some(picture) = picture {
            fs::write(out.join(name), picture)?;
        }
    }
    Ok(())
}
