//! What the tests need around the shop: servers of their own, which end with the test process.

mod folder;
pub mod postgres;
pub mod rabbitmq;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

pub use folder::Folder;

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
