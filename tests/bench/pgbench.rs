//! The limit of placing orders: the same statements by pgbench, an order a transaction, on the same PostgreSQL.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::figures::{Run, Who};
use crate::processes::usage;
use crate::programs;
use crate::stand::Stand;

/// The order node's tables, as far as placing an order needs them.
const SCHEMA: &str = include_str!("pgbench/schema.sql");

/// Placing an order of two items, as the order node does, statement by statement.
const ORDER: &str = include_str!("pgbench/order.sql");

/// It has a thread for so many clients at most.
const THREADS: u32 = 2;

/// A database of pgbench's own, with products to sell.
#[derive(Debug)]
pub struct Pgbench<'s> {
    stand: &'s Stand,
    database: String,
    script: PathBuf,
}

impl<'s> Pgbench<'s> {
    /// Makes the database.
    pub async fn prepare(stand: &'s Stand) -> anyhow::Result<Pgbench<'s>> {
        let database = stand.new_database().await?;
        let mut connection = stand.connect(&database).await?;
        sqlx::raw_sql(AssertSqlSafe(SCHEMA)).execute(&mut connection).await?;
        sqlx::raw_sql("vacuum analyze").execute(&mut connection).await?;
        let script = stand.folder().join("order.sql");
        fs::write(&script, ORDER)?;
        Ok(Pgbench { stand, database, script })
    }

    /// Places orders as fast as so many clients can.
    pub async fn run(&self, clients: u32, seconds: u64) -> anyhow::Result<Run> {
        let mut pgbench = Command::new(programs::pgbench()?);
        pgbench.args(["-n", "-M", "prepared", "-h", "127.0.0.1", "-U", "shop"]);
        pgbench.args(["-p", &self.stand.database_port().to_string()]);
        pgbench.args(["-c", &clients.to_string(), "-j", &clients.min(THREADS).to_string()]);
        pgbench.args(["-T", &seconds.to_string(), "-f"]).arg(&self.script).arg(&self.database);
        pgbench.stdin(Stdio::null()).kill_on_drop(true);
        let watched = self.stand.watched(&vec![]);
        let before = usage(&watched);
        let output = pgbench.output().await.context("pgbench")?;
        let after = usage(&watched);
        let words = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench did not run: {complaint}");
        let figure = |name: &str| {
            let line = words.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let rate = figure("tps = ").with_context(|| format!("pgbench said no rate: {words}"))?;
        let orders = figure("number of transactions actually processed: ").unwrap_or_default();
        let failed = figure("number of failed transactions: ").unwrap_or_default();
        let orders = orders as u64;
        let run = Run {
            per_second: rate,
            failed: failed > 0.0,
            errors: failed as u64,
            ..Run::of_rate(Who::Limit, clients, seconds as f64, orders)
        };
        Ok(run.with_usage(orders, &before, &after))
    }
}
