//! The shop in a process of its own that can be told where to die.

use std::fs::{self, File};
use std::io::{BufRead, stdin};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use shop_runtime::failpoint::{FailAction, arm, is_armed};
use shop_supervisor::{Config, Node, Shop, log};
use shop_tests::Folder;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

/// Set in a process that is to be a shop.
const CHILD: &str = "SHOP_CHILD";

/// Whether this process is to be a shop.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Is the shop, as its environment says, and does what it is told on standard input until that ends.
pub async fn be_a_shop() -> anyhow::Result<()> {
    let config = Config::read(None, std::env::vars())?;
    log::start(&config.log)?;
    let (tell, mut told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            tell.send(line).ok();
        }
    });
    let mut shop = Shop::start(&config, &Node::ALL).await?;
    println!("ready");
    loop {
        let line = tokio::select! {
            line = told.recv() => line,
            () = shop.ended() => bail!("the shop ended by itself"),
        };
        match line.as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
            Some(("kill", point)) => arm(point, FailAction::Process),
            Some(("panic", point)) => arm(point, FailAction::Actor),
            Some(("armed?", _)) => {}
            _ => break,
        }
        println!("{}", is_armed());
    }
    shop.stop().await;
    println!("{}", is_armed());
    Ok(())
}

/// A shop in a process of its own. It ends with this one.
pub struct Process {
    child: Child,
    tell: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts it; when this returns, it answers.
    pub async fn start(folder: &Folder, variables: &[(String, String)]) -> anyhow::Result<Process> {
        let log = folder.path().join("log");
        let mut command = Command::new(std::env::current_exe()?);
        command.env_clear().envs(variables.iter().cloned()).env(CHILD, "1").kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let tell = child.stdin.take();
        let said = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut process = Process { child, tell, said, log };
        let ready = process.said.next_line().await?;
        ensure!(ready.as_deref() == Some("ready"), "the shop did not start: {}", process.log());
        Ok(process)
    }

    /// Says where the next death is.
    pub async fn arm(&mut self, victim: FailAction, point: &str) -> anyhow::Result<()> {
        let who = if victim == FailAction::Process { "kill" } else { "panic" };
        let said = self.ask(&format!("{who} {point}\n")).await;
        ensure!(said.as_deref() == Some("true"), "it is not armed: {said:?}");
        Ok(())
    }

    /// Whether somebody has died at the armed point.
    pub async fn passed(&mut self) -> bool {
        self.ask("armed?\n").await.is_none_or(|said| said == "false")
    }

    /// What it says to this; nothing when it is dead.
    async fn ask(&mut self, line: &str) -> Option<String> {
        self.tell.as_mut()?.write_all(line.as_bytes()).await.ok()?;
        self.said.next_line().await.ok()?
    }

    /// Whether the process is no more.
    pub fn is_dead(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        ended.context("it does not end")??;
        Ok(())
    }

    /// Asks it to end in good order; whether somebody died at the armed point before it did.
    pub async fn stop(&mut self) -> anyhow::Result<bool> {
        self.tell = None;
        let said = self.said.next_line().await?;
        self.child.wait().await?;
        Ok(said.is_none_or(|said| said == "false"))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}
