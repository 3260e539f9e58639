//! Finds the load generators that are installed on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The directory in which Debian installs the programs of each PostgreSQL version.
const DEBIAN_POSTGRESQL: &str = "/usr/lib/postgresql";

/// The load generator for HTTP.
pub fn wrk() -> anyhow::Result<PathBuf> {
    on_path("wrk").context("wrk is not installed (Debian: apt-get install wrk)")
}

/// The load generator for PostgreSQL.
pub fn pgbench() -> anyhow::Result<PathBuf> {
    let error = "pgbench is not installed (Debian: apt-get install postgresql; \
        other systems: often in postgresql-contrib)";
    on_path("pgbench").or_else(in_debian_directory).context(error)
}

/// The version of the installed wrk.
pub fn wrk_version() -> anyhow::Result<String> {
    // wrk exits with status 1 after it has printed its version.
    let output = Command::new(wrk()?).arg("--version").output()?.stdout;
    let output = String::from_utf8_lossy(&output);
    let word = output.split_whitespace().nth(1);
    let version = word.and_then(|word| word.split('/').next_back());
    Ok(version.unwrap_or("unknown").to_owned())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn in_debian_directory() -> Option<PathBuf> {
    let versions = Path::new(DEBIAN_POSTGRESQL).read_dir().ok()?.flatten();
    versions.map(|version| version.path().join("bin/pgbench")).find(|program| program.is_file())
}
