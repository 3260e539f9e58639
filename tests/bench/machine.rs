//! Describes the machine and the programs of a run.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use shop_runtime::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::environment::{Environment, open_tcp};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The machine, and the versions of the programs on it.
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
    /// Describes this machine.
    pub async fn detect(environment: &Environment) -> anyhow::Result<Machine> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Machine {
            cores: cores(),
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            kernel: kernel.trim().to_owned(),
            versions: environment.versions().await?,
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            date: now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        })
    }
}

/// Number of threads that can run in parallel.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The version of the RabbitMQ at `port`. The server sends it in `connection.start` of AMQP 0-9-1,
/// before authentication.
pub async fn rabbitmq_version(port: u16) -> anyhow::Result<String> {
    const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
    const FRAME_HEADER_LENGTH: usize = 7;
    /// A field of the server properties: length of the name, name, type (long string).
    const VERSION_FIELD: &[u8] = b"\x07versionS";
    let body = timeout(HANDSHAKE_TIMEOUT, async {
        let mut stream = open_tcp(port).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        let mut header = [0; FRAME_HEADER_LENGTH];
        stream.read_exact(&mut header).await?;
        let [_, _, _, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).await?;
        anyhow::Ok(body)
    });
    let body = body.await.context("RabbitMQ does not answer within 5 s")??;
    let field = body.windows(VERSION_FIELD.len()).position(|window| window == VERSION_FIELD);
    let value = field.and_then(|at| body.get(at + VERSION_FIELD.len()..));
    let version = value.and_then(|value| {
        let (length, rest) = value.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        String::from_utf8(rest.get(..length as usize)?.to_vec()).ok()
    });
    version.context("RabbitMQ's handshake has no version")
}
