//! The test kit: shops with their configuration, clients with typed responses, the servers that a shop
//! needs, fault proxies and waiting. Servers and folders end with the test process.

pub mod api;
pub mod browser;
mod client;
pub mod fault_proxy;
mod folder;
pub mod postgres;
mod process;
pub mod rabbitmq;
mod response;
mod secrets;
mod settings;
mod shop;
mod urls;
mod wait;

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, ensure};
use tokio::process::Command;

pub use client::{Client, sign};
pub use folder::Folder;
pub use process::{Process, binary};
pub use response::Response;
pub use secrets::{PASSWORD, SECRET};
pub use settings::{BrokerKind, Settings, variable};
pub use shop::TestShop;
pub use urls::Urls;
pub use wait::{equal, eventually};

/// The path of the release binary. It is built first, unless it is up to date.
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

/// Sends a signal, such as `KILL`, to a process.
///
/// # Errors
/// When there is no such process, or another user owns it.
pub async fn signal(signal: &str, pid: u32) -> io::Result<()> {
    let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).output().await?;
    let why = || String::from_utf8_lossy(&sent.stderr).trim().to_owned();
    if sent.status.success() { Ok(()) } else { Err(io::Error::other(why())) }
}

/// A free TCP port of 127.0.0.1. It is below the ephemeral range, so that no outgoing connection takes
/// it while its server is down.
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: u16 = 12_000;
    // Each test process starts at another port, so that they seldom try the same one.
    let start = (std::process::id() % u32::from(PORTS / 64)) as u16 * 64;
    (0..PORTS)
        .map(|_| 20_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port between 20000 and 32000")
}
