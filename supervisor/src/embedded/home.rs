//! The folder where the shop keeps its data, and the secret in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use anyhow::{Context, bail};
use secrecy::SecretString;

use super::account::Account;

/// Where data goes when PostgreSQL's user cannot enter the configured folder.
const ELSEWHERE: &str = "/var/lib/shop";
const SECRET_BYTES: usize = 32;

/// Where the shop keeps its data.
#[derive(Clone, Debug)]
pub struct Home {
    folder: PathBuf,
    moved: bool,
}

impl Home {
    /// Chooses and creates the folder: the configured one, or `/var/lib/shop` when the shop runs as
    /// root and the user that PostgreSQL would run as cannot enter it (a checkout under `/root`).
    ///
    /// # Errors
    /// When the folder cannot be created, or root has no user to run PostgreSQL as.
    pub fn choose(configured: &Path) -> anyhow::Result<Self> {
        let wanted = path::absolute(configured)
            .with_context(|| format!("cannot use {} as data folder", configured.display()))?;
        let account = Account::serving(&wanted.join("postgres"))?;
        let there_already = wanted.ancestors().find(|folder| folder.exists());
        let moved = !there_already.is_some_and(|folder| account.may_enter(folder));
        let folder = if moved { PathBuf::from(ELSEWHERE) } else { wanted };
        create(&folder).with_context(|| {
            format!("cannot create {}: choose another data folder", folder.display())
        })?;
        Ok(Self { folder, moved })
    }

    /// The folder, as an absolute path.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether this is not the configured folder. The start banner says so.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.moved
    }

    /// The folder of the PostgreSQL cluster.
    #[must_use]
    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// The secret that signs tokens, made up on first use and kept in `jwt_secret`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds too little.
    pub fn secret(&self) -> anyhow::Result<SecretString> {
        let path = self.folder.join("jwt_secret");
        let secret = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_up(&path).with_context(|| format!("cannot write {}", path.display()))?
            }
            read => read.with_context(|| {
                format!("cannot read {}: start the shop as its owner", path.display())
            })?,
        };
        if secret.trim().len() < SECRET_BYTES {
            bail!(
                "{} holds fewer than {SECRET_BYTES} bytes: remove it and the shop makes up another",
                path.display()
            );
        }
        Ok(secret.trim().into())
    }
}

/// Creates `folder` so that PostgreSQL's user can pass through it, whatever the umask says.
fn create(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o711))
}

fn make_up(path: &Path) -> std::io::Result<String> {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let secret = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let draft = path.with_added_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?; // before the name: never half a secret, not even after a power cut
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok(secret)
}
