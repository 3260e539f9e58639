//! The user that PostgreSQL runs as: the shop's own, or an unprivileged one when the shop is root.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use anyhow::bail;
use nix::unistd::{Uid, User};

/// User and group id of an unprivileged user; `None` for the shop's own user.
pub(super) struct RunAsUser(Option<(u32, u32)>);

impl RunAsUser {
    /// Chooses the user for the cluster in `directory`. A shop that runs as root takes the owner of
    /// an existing cluster, else `postgres`, else `nobody`.
    ///
    /// # Errors
    /// When the shop is root and the system has none of these users.
    pub(super) fn for_cluster(directory: &Path) -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        if let Ok(existing) = fs::metadata(directory)
            && existing.uid() != 0
        {
            return Ok(Self(Some((existing.uid(), existing.gid()))));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Self(Some((user.uid.as_raw(), user.gid.as_raw()))));
            }
        }
        bail!(
            "PostgreSQL refuses to run as root, and the system has no user postgres or nobody: add \
             one (useradd --system postgres) or start the shop as an ordinary user"
        )
    }

    /// Makes `command` run as this user.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
    }

    /// Makes this user the owner of `path`.
    pub(super) fn chown(&self, path: &Path) -> io::Result<()> {
        self.0.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
    }

    /// The id of this user.
    pub(super) fn uid(&self) -> u32 {
        self.0.map_or_else(|| Uid::effective().as_raw(), |(uid, _)| uid)
    }

    /// Whether this user can enter `directory`. A process tries it, so that the modes of parent
    /// directories and access control lists count too.
    pub(super) fn can_enter(&self, directory: &Path) -> bool {
        let mut attempt = Command::new("sh");
        attempt.args(["-c", r#"[ -x "$0" ]"#]).arg(directory).current_dir("/");
        self.apply(&mut attempt);
        attempt.status().is_ok_and(|status| status.success())
    }
}
