//! Finds PostgreSQL's programs, which distributions keep out of the way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::bail;

use super::account::Account;

/// The folder with `initdb` and `postgres`, of major version `major` if one is asked for, usable by
/// `account`. The configured folder goes first.
///
/// # Errors
/// When there is none, with what to install.
pub(super) fn find(
    configured: Option<&Path>,
    major: Option<u32>,
    account: &Account,
) -> anyhow::Result<PathBuf> {
    if let Some(folder) = configured
        && major_in(folder).is_none()
    {
        bail!(
            "there is no working initdb and postgres in {}: set embedded.postgres_binaries to the \
             folder that holds them, or leave it out",
            folder.display()
        );
    }
    let mut others = Vec::new();
    for folder in candidates(configured).filter(|folder| account.may_enter(folder)) {
        match (major_in(&folder), major) {
            (Some(found), Some(wanted)) if found != wanted => others.push(found.to_string()),
            (Some(_), _) => return Ok(folder),
            (None, _) => {}
        }
    }
    match major {
        Some(major) if !others.is_empty() => bail!(
            "the data was written by PostgreSQL {major}, and only version {} is installed: install \
             PostgreSQL {major} (apt-get install postgresql-{major}), or move the data folder away \
             to start with an empty one",
            others.join(", ")
        ),
        _ => bail!(
            "PostgreSQL is not installed: install its server (Debian and Ubuntu: apt-get install \
             postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql), \
             set embedded.postgres_binaries to the folder with initdb and postgres, or set \
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

/// Programs on the path are often links to where all of PostgreSQL lies together.
fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).collect::<Vec<_>>();
    folders.into_iter().filter_map(|folder| {
        Some(fs::canonicalize(folder.join("initdb")).ok()?.parent()?.to_owned())
    })
}

fn by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Debian's versions lie side by side: newest first.
fn debian() -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders = versions
        .map(|version| version.path().join("bin"))
        .filter_map(|folder| Some((major_in(&folder)?, folder)))
        .collect::<Vec<_>>();
    folders.sort_unstable_by(|a, b| b.cmp(a));
    folders.into_iter().map(|(_, folder)| folder)
}

/// The major version of the PostgreSQL in `folder`, if a whole one lies there.
fn major_in(folder: &Path) -> Option<u32> {
    if !folder.join("initdb").is_file() {
        return None;
    }
    // postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    major(String::from_utf8(output.stdout).ok()?.split_whitespace().nth(2)?)
}

/// The major version in `15.19`, `18beta1` or the file `PG_VERSION`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
