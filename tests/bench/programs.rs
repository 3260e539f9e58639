//! The programs that measure: found on this machine, or said how to install.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// Where Debian keeps what comes with a PostgreSQL of some version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The load generator for HTTP.
pub fn wrk() -> anyhow::Result<PathBuf> {
    on_path("wrk").context("wrk is needed: install it (Debian: apt-get install wrk)")
}

/// The load generator for PostgreSQL.
pub fn pgbench() -> anyhow::Result<PathBuf> {
    let advice = "pgbench is needed: install it (Debian: apt-get install postgresql; \
        elsewhere it may be in postgresql-contrib)";
    on_path("pgbench").or_else(in_debian).context(advice)
}

/// What wrk says its version is.
pub fn version_of_wrk() -> anyhow::Result<String> {
    let said = Command::new(wrk()?).arg("--version").output()?.stdout; // it calls that a failure
    let said = String::from_utf8_lossy(&said);
    let version = said.split_whitespace().nth(1).and_then(|version| version.split('/').next_back());
    Ok(version.unwrap_or("unknown").to_owned())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn in_debian() -> Option<PathBuf> {
    let versions = Path::new(DEBIAN).read_dir().ok()?.flatten();
    versions.map(|version| version.path().join("bin/pgbench")).find(|program| program.is_file())
}
