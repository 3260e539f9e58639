//! Finds PostgreSQL's programs, which distributions often install outside `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::bail;

use super::run_as::RunAsUser;

/// The directory with `initdb` and `postgres`, of major version `major` if given, that `user` can
/// enter. The configured directory comes first.
///
/// # Errors
/// When there is none, with what to install.
pub(super) fn find(
    configured: Option<&Path>,
    major: Option<u32>,
    user: &RunAsUser,
) -> anyhow::Result<PathBuf> {
    if let Some(directory) = configured
        && major_in(directory).is_none()
    {
        bail!(
            "{} has no working initdb and postgres: set embedded.postgres_binaries to the directory \
             that contains them, or remove the key",
            directory.display()
        );
    }
    let mut others = Vec::new();
    for directory in candidates(configured).filter(|directory| user.can_enter(directory)) {
        match (major_in(&directory), major) {
            (Some(found), Some(wanted)) if found != wanted => others.push(found.to_string()),
            (Some(_), _) => return Ok(directory),
            (None, _) => {}
        }
    }
    match major {
        Some(major) if !others.is_empty() => bail!(
            "the data was written by PostgreSQL {major}, and only version {} is installed: install \
             PostgreSQL {major} (apt-get install postgresql-{major}), or move the data directory \
             away to start with an empty one",
            others.join(", ")
        ),
        _ => bail!(
            "PostgreSQL is not installed: install its server (Debian and Ubuntu: apt-get install \
             postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql), \
             set embedded.postgres_binaries to the directory with initdb and postgres, or set \
             embedded.postgres = false and use a running server"
        ),
    }
}

fn candidates(configured: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    configured
        .map(Path::to_owned)
        .into_iter()
        .chain(on_path())
        .chain(by_pg_config())
        .chain(debian())
}

/// A program in `PATH` is often a link into PostgreSQL's own directory.
fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).collect::<Vec<_>>();
    directories.into_iter().filter_map(|directory| {
        Some(fs::canonicalize(directory.join("initdb")).ok()?.parent()?.to_owned())
    })
}

fn by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Debian installs several major versions side by side; newest first.
fn debian() -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories = versions
        .map(|version| version.path().join("bin"))
        .filter_map(|directory| Some((major_in(&directory)?, directory)))
        .collect::<Vec<_>>();
    directories.sort_unstable_by(|a, b| b.cmp(a));
    directories.into_iter().map(|(_, directory)| directory)
}

/// The major version of the PostgreSQL in `directory`, if it is complete.
fn major_in(directory: &Path) -> Option<u32> {
    if !directory.join("initdb").is_file() {
        return None;
    }
    // postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    major(String::from_utf8(output.stdout).ok()?.split_whitespace().nth(2)?)
}

/// The major version in `15.19`, `18beta1` or the file `PG_VERSION`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
