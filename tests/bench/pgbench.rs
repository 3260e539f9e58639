//! The baseline of placing orders: pgbench executes the same statements on the same PostgreSQL, one
//! order per transaction.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::environment::Environment;
use crate::figures::{Run, Subject};
use crate::processes::usage;
use crate::programs;

/// The tables of the order node that placing an order uses.
const SCHEMA: &str = include_str!("pgbench/schema.sql");

/// Places an order of two items, one statement at a time.
const ORDER: &str = include_str!("pgbench/order.sql");

/// Maximum number of pgbench threads.
const MAX_THREADS: u32 = 2;

/// A separate database with products.
#[derive(Debug)]
pub struct Pgbench<'e> {
    environment: &'e Environment,
    database: String,
    script: PathBuf,
}

impl<'e> Pgbench<'e> {
    /// Creates the database.
    pub async fn prepare(environment: &'e Environment) -> anyhow::Result<Pgbench<'e>> {
        let database = environment.new_database().await?;
        let mut connection = environment.connect(&database).await?;
        sqlx::raw_sql(AssertSqlSafe(SCHEMA)).execute(&mut connection).await?;
        sqlx::raw_sql("vacuum analyze").execute(&mut connection).await?;
        let script = environment.folder().join("order.sql");
        fs::write(&script, ORDER)?;
        Ok(Pgbench { environment, database, script })
    }

    /// Places orders at the maximum rate of this number of clients.
    pub async fn run(&self, clients: u32, seconds: u64) -> anyhow::Result<Run> {
        let mut pgbench = Command::new(programs::pgbench()?);
        pgbench.args(["-n", "-M", "prepared", "-h", "127.0.0.1", "-U", "shop"]);
        pgbench.args(["-p", &self.environment.database_port().to_string()]);
        pgbench.args(["-c", &clients.to_string(), "-j", &clients.min(MAX_THREADS).to_string()]);
        pgbench.args(["-T", &seconds.to_string(), "-f"]).arg(&self.script).arg(&self.database);
        pgbench.stdin(Stdio::null()).kill_on_drop(true);
        let trees = self.environment.with_servers(&vec![]);
        let before = usage(&trees);
        let output = pgbench.output().await.context("cannot run pgbench")?;
        let after = usage(&trees);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench failed: {stderr}");
        let figure = |name: &str| {
            let line = stdout.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let rate =
            figure("tps = ").with_context(|| format!("pgbench printed no rate: {stdout}"))?;
        let orders = figure("number of transactions actually processed: ").unwrap_or_default();
        let failed = figure("number of failed transactions: ").unwrap_or_default();
        let orders = orders as u64;
        let run = Run {
            per_second: rate,
            failed: failed > 0.0,
            errors: failed as u64,
            ..Run::of_rate(Subject::Baseline, clients, seconds as f64, orders)
        };
        Ok(run.with_usage(orders, &before, &after))
    }
}
