//! Passwords checked by as many threads as there are cores, and nothing else: what bcrypt alone costs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use crate::machine::cores;
use crate::people::{COST, PASSWORD};

/// Checks passwords for so long. Prints how many were checked by then: as of a load, what is not done in time does not
/// count.
pub fn hash(seconds: u64) -> anyhow::Result<()> {
    let hash = bcrypt::hash(PASSWORD, COST)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let checked = thread::scope(|scope| {
        let check = || {
            let mut checked = 0;
            loop {
                ensure!(bcrypt::verify(PASSWORD, &hash)?, "bcrypt forgot a password");
                if Instant::now() > until {
                    return Ok(checked);
                }
                checked += 1;
            }
        };
        let threads = (0..cores()).map(|_| scope.spawn(check)).collect::<Vec<_>>();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .sum::<anyhow::Result<u64>>()
    })?;
    println!("{checked}");
    Ok(())
}
