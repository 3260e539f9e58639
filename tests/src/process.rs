//! The release binary as operators run it: a process configured by environment variables alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::sync::OnceCell;

use crate::wait::eventually;
use crate::{Folder, release_binary, signal};

/// The path of the binary under test: `SHOP_TESTS_BINARY`, or else the release binary, which is built on
/// the first call.
///
/// # Panics
/// When it cannot be built.
pub async fn binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    let path = async || match std::env::var_os("SHOP_TESTS_BINARY") {
        Some(path) => PathBuf::from(path), // absolute: processes have other working directories
        None => release_binary().await.expect("the release binary"),
    };
    BINARY.get_or_init(path).await
}

/// A process of the binary. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: PathBuf,
    name: String,
}

impl Process {
    /// Starts `shop` with these arguments and variables, in this folder. Its output goes to files
    /// there.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub async fn start(
        folder: &Folder,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Process {
        let folder = folder.path().to_owned();
        let name = if arguments.is_empty() { "all".to_owned() } else { arguments.join("-") };
        let file = |stream: &str| {
            File::create(folder.join(format!("{name}.{stream}"))).expect("a file in the folder")
        };
        let mut command = Command::new(binary().await);
        command.args(arguments).current_dir(&folder).env_clear().envs(variables.iter().cloned());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(binaries) = std::env::var_os("SHOP__EMBEDDED__POSTGRES_BINARIES") {
            command.env("SHOP__EMBEDDED__POSTGRES_BINARIES", binaries);
        }
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let child = command.spawn().expect("a process of the binary");
        Process { child, folder, name }
    }

    /// Runs a command to its end: exit code, standard output and standard error.
    pub async fn run(
        folder: &Folder,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> (Option<i32>, String, String) {
        let mut process = Process::start(folder, arguments, variables).await;
        let status = process.until_ended().await;
        (status.code(), process.stdout(), process.stderr())
    }

    /// The standard output so far.
    pub fn stdout(&self) -> String {
        self.read("out")
    }

    /// The standard error so far, which has the log.
    pub fn stderr(&self) -> String {
        self.read("err")
    }

    fn read(&self, stream: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{}.{stream}", self.name))).unwrap_or_default()
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Panics
    /// When that fails.
    pub fn kill(&mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("its exit status");
    }

    /// Ends the process with SIGTERM; returns its exit status.
    ///
    /// # Panics
    /// When it has ended before or does not end within a minute.
    pub async fn stop(mut self) -> ExitStatus {
        signal("TERM", self.child.id()).await.expect("a running process");
        self.until_ended().await
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// When it does not end within a minute.
    pub async fn until_ended(&mut self) -> ExitStatus {
        eventually(async || self.try_status().ok_or("it still runs".to_owned())).await
    }

    /// The exit status, if the process has ended.
    ///
    /// # Panics
    /// When the system does not know the process.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child process")
    }

    /// Resident memory in MiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("resident memory") / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
