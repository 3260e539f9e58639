//! A temporary folder that goes away with the test process, however that ends.

use std::io::{PipeWriter, pipe};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

/// Waits for the end of the pipe. Servers that end at the same moment may still write, hence twice.
const SWEEP: &str = r#"read -r _; rm -rf "$0"; sleep 1; rm -rf "$0""#;

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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))?; // servers may be lesser users
        let (end, owned) = pipe()?;
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", SWEEP]).arg(&path).current_dir("/").stdin(end).process_group(0);
        let mut sweeper = sweeper.spawn()?;
        std::thread::spawn(move || sweeper.wait()); // no zombies
        Ok(Self { path, _owned: owned })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
