//! The account that PostgreSQL runs under: the shop's own, or a lesser one when the shop is root.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use anyhow::bail;
use nix::unistd::{Uid, User};

/// An account other than the shop's own, as user and group id; none when the shop's own will do.
pub(super) struct Account(Option<(u32, u32)>);

impl Account {
    /// Chooses who serves the cluster in `folder`: whoever owns it already, else `postgres`, else
    /// `nobody`. Only root has the choice.
    ///
    /// # Errors
    /// When root finds nobody to hand PostgreSQL to.
    pub(super) fn serving(folder: &Path) -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        if let Ok(owned) = fs::metadata(folder)
            && owned.uid() != 0
        {
            return Ok(Self(Some((owned.uid(), owned.gid()))));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Self(Some((user.uid.as_raw(), user.gid.as_raw()))));
            }
        }
        bail!(
            "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it \
             as: add one (useradd --system postgres) or start the shop as an ordinary user"
        )
    }

    /// Makes `command` run under this account.
    pub(super) fn take(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
    }

    /// Hands `path` over to this account.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        self.0.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
    }

    /// The owner that this account's files have.
    pub(super) fn uid(&self) -> u32 {
        self.0.map_or_else(|| Uid::effective().as_raw(), |(uid, _)| uid)
    }

    /// Whether this account can enter `folder`. Tried rather than worked out from modes, so that
    /// ancestors and access lists count as well.
    pub(super) fn may_enter(&self, folder: &Path) -> bool {
        let mut attempt = Command::new("sh");
        attempt.args(["-c", r#"[ -x "$0" ]"#]).arg(folder).current_dir("/");
        self.take(&mut attempt);
        attempt.status().is_ok_and(|status| status.success())
    }
}
