//! Log lines: readable on a terminal, JSON for collectors. They go to standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Format, Log};

/// Starts logging. Once per process.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // What these log themselves, a session or supervisor of ours handles and says in its own words.
    let filter = format!(
        "{},amqprs=off,ractor=off,sqlx::postgres::notice=off,sqlx_core::pool=off",
        log.level
    );
    let filter = EnvFilter::try_new(filter)?;
    let lines = fmt().with_env_filter(filter).with_writer(stderr);
    let started = match log.format {
        Format::Text => lines.with_ansi(stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}
