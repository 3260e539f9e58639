//! Log lines: readable on a terminal, JSON for collectors. They go to standard error.

use std::io::{IsTerminal, stderr};

use shop_persistence::trace;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::config::{Format, Log};
use crate::telemetry::{STATEMENTS, Statements};

/// Starts logging. Once per process.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // What these log themselves, a session or supervisor of ours handles and says in its own words. A statement is
    // logged where that is asked for (`echo`); one that is only traced is of a lower level.
    let filter = format!(
        "{},amqprs=off,ractor=off,sqlx::postgres::notice=off,sqlx_core::pool=off,{STATEMENTS}=info",
        log.level
    );
    let filter = EnvFilter::try_new(filter)?;
    let lines = fmt::layer().with_writer(stderr);
    let lines = match log.format {
        Format::Text => lines.with_ansi(stderr().is_terminal()).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let statements = trace::is_collected().then(|| {
        let only = filter_fn(|metadata| metadata.target() == STATEMENTS);
        Statements.with_filter(only.with_max_level_hint(LevelFilter::DEBUG))
    });
    let started = registry().with(statements).with(lines.with_filter(filter)).try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}
