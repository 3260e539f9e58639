//! Verifies passwords on one thread per core: the cost of bcrypt alone.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use crate::machine::cores;
use crate::users::{COST, PASSWORD};

/// Verifies passwords for `seconds` and prints the number of those that finished within that time.
/// Unfinished ones do not count, as in a measurement with wrk.
pub fn hash(seconds: u64) -> anyhow::Result<()> {
    let hash = bcrypt::hash(PASSWORD, COST)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let verified = thread::scope(|scope| {
        let verify = || {
            let mut verified = 0;
            loop {
                ensure!(bcrypt::verify(PASSWORD, &hash)?, "bcrypt rejects a valid password");
                if Instant::now() > end {
                    return Ok(verified);
                }
                verified += 1;
            }
        };
        let threads = (0..cores()).map(|_| scope.spawn(verify)).collect::<Vec<_>>();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .sum::<anyhow::Result<u64>>()
    })?;
    println!("{verified}");
    Ok(())
}
