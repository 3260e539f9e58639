//! The directory where the shop stores its data, and the secret in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use anyhow::{Context, bail};
use secrecy::SecretString;

use super::run_as::RunAsUser;

/// Used when PostgreSQL's user cannot enter the configured directory.
const FALLBACK: &str = "/var/lib/shop";
const SECRET_BYTES: usize = 32;

/// The directory where the shop stores its data.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    path: PathBuf,
    is_fallback: bool,
}

impl DataDirectory {
    /// Chooses and creates the directory: the configured one, or `/var/lib/shop` when the shop runs
    /// as root and PostgreSQL's user cannot enter it (such as a checkout below `/root`).
    ///
    /// # Errors
    /// When the directory cannot be created, or the shop is root and there is no user for
    /// PostgreSQL.
    pub fn choose(configured: &Path) -> anyhow::Result<Self> {
        let configured = path::absolute(configured)
            .with_context(|| format!("cannot use {} as data directory", configured.display()))?;
        let user = RunAsUser::for_cluster(&configured.join("postgres"))?;
        let existing = configured.ancestors().find(|ancestor| ancestor.exists());
        let is_fallback = !existing.is_some_and(|ancestor| user.can_enter(ancestor));
        let path = if is_fallback { PathBuf::from(FALLBACK) } else { configured };
        create(&path).with_context(|| {
            format!("cannot create {}: choose another data directory", path.display())
        })?;
        Ok(Self { path, is_fallback })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is not the configured directory.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// The directory of the PostgreSQL cluster.
    #[must_use]
    pub fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// The secret that signs tokens, generated at the first call and stored in `jwt_secret`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is too short.
    pub fn secret(&self) -> anyhow::Result<SecretString> {
        let path = self.path.join("jwt_secret");
        let secret = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                generate(&path).with_context(|| format!("cannot write {}", path.display()))?
            }
            read => read.with_context(|| {
                format!("cannot read {}: start the shop as its owner", path.display())
            })?,
        };
        if secret.trim().len() < SECRET_BYTES {
            bail!(
                "{} has fewer than {SECRET_BYTES} bytes: delete it, and the shop generates another",
                path.display()
            );
        }
        Ok(secret.trim().into())
    }
}

/// Creates `directory` so that PostgreSQL's user can enter it, whatever the umask is.
fn create(directory: &Path) -> std::io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o711))
}

/// Writes a new secret to a temporary file and renames it, so that a power failure never leaves half
/// a secret.
fn generate(path: &Path) -> std::io::Result<String> {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let secret = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let temporary = path.with_added_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
    Ok(secret)
}
