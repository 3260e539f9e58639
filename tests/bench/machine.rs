//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use shop_runtime::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::stand::{Stand, raw};

const PATIENCE: Duration = Duration::from_secs(5);

/// The machine and what runs on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    pub versions: BTreeMap<&'static str, String>,
    pub commit: String,
    pub date: String,
}

impl Machine {
    /// This one.
    pub async fn here(stand: &Stand) -> anyhow::Result<Machine> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Machine {
            cores: cores(),
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            kernel: kernel.trim().to_owned(),
            versions: stand.versions().await?,
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            date: now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        })
    }
}

/// How many threads can run at a time.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let said = git.output().ok().filter(|said| said.status.success())?;
    Some(String::from_utf8(said.stdout).ok()?.trim().to_owned())
}

/// RabbitMQ says its version when it is greeted (AMQP 0-9-1, `connection.start`), before anybody signs in.
pub async fn version_of_rabbitmq(port: u16) -> anyhow::Result<String> {
    const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";
    const FRAME_HEADER: usize = 7;
    const NAME: &[u8] = b"\x07versionS";
    let properties = timeout(PATIENCE, async {
        let mut stream = raw(port).await?;
        stream.write_all(GREETING).await?;
        let mut header = [0; FRAME_HEADER];
        stream.read_exact(&mut header).await?;
        let [_, _, _, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).await?;
        anyhow::Ok(body)
    });
    let properties = properties.await.context("RabbitMQ does not answer")??;
    let named = properties.windows(NAME.len()).position(|window| window == NAME);
    let text = named.and_then(|at| properties.get(at + NAME.len()..));
    let version = text.and_then(|text| {
        let (length, rest) = text.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        String::from_utf8(rest.get(..length as usize)?.to_vec()).ok()
    });
    version.context("RabbitMQ does not say its version")
}
