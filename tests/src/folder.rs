//! A temporary folder that is deleted with the test process, however that ends.

use std::io::{PipeWriter, pipe};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

/// Deletes the folder when the pipe closes, and again a second later: servers that exit at the same time
/// may still write.
const DELETE: &str = r#"read -r _; rm -rf "$0"; sleep 1; rm -rf "$0""#;

/// A temporary folder, removed when dropped and when its process ends or is killed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _owned: PipeWriter,
}

impl Folder {
    /// Creates an empty folder whose name begins with `name`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(name: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))?; // servers may run as another user
        let (end, owned) = pipe()?;
        let mut deleter = Command::new("sh");
        deleter.args(["-c", DELETE]).arg(&path).current_dir("/").stdin(end).process_group(0);
        let mut deleter = deleter.spawn()?;
        std::thread::spawn(move || deleter.wait()); // leaves no zombie
        Ok(Self { path, _owned: owned })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
