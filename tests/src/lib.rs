//! What the tests need around the shop: servers of their own, which end with the test process.

pub mod browser;
pub mod fault_proxy;
mod folder;
pub mod postgres;
pub mod rabbitmq;

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, ensure};
pub use folder::Folder;
use tokio::process::Command;

/// The release binary. It is built first: nothing is done where it is up to date.
///
/// # Errors
/// When it cannot be built.
pub async fn release_binary() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--workspace", "--release", "--locked", "--bin", "shop"]);
    build.current_dir(&root);
    ensure!(build.status().await.context("cargo")?.success(), "the release binary is not built");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("release/shop").canonicalize().context("the release binary")
}

/// Sends a signal (`KILL`, say) to a process.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub async fn signal(signal: &str, pid: u32) -> io::Result<()> {
    let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).output().await?;
    let why = || String::from_utf8_lossy(&sent.stderr).trim().to_owned();
    if sent.status.success() { Ok(()) } else { Err(io::Error::other(why())) }
}

/// A TCP port of 127.0.0.1 that nobody uses, and that no outgoing connection will take while its
/// server is down: it lies below the range that the system hands out.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: u16 = 12_000;
    // Test processes start at different places, so that they seldom try the same port.
    let start = (std::process::id() % u32::from(PORTS / 64)) as u16 * 64;
    (0..PORTS)
        .map(|_| 20_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port between 20000 and 32000")
}
