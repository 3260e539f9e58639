//! The shop in a child process whose failpoints are armed through standard input.

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

/// Environment variable that is set in the child process.
const CHILD: &str = "SHOP_CHILD";
/// Timeout of the process's exit after its failpoint was reached.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of log lines shown after a failure.
const LOG_LINES: usize = 30;

/// Whether this process is the child that runs the shop.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a shop that is configured by the environment. Executes a command for each line of standard
/// input and answers with a line; stops the shop at the end of the input.
pub async fn run_child() -> anyhow::Result<()> {
    let config = Config::read(None, std::env::vars())?;
    log::start(&config.log)?;
    let (sender, mut commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            sender.send(line).ok();
        }
    });
    let mut shop = Shop::start(&config, &Node::ALL).await?;
    println!("ready");
    loop {
        let line = tokio::select! {
            line = commands.recv() => line,
            () = shop.ended() => bail!("the shop ended without a command"),
        };
        match line.as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
            Some(("kill", failpoint)) => arm(failpoint, FailAction::Process),
            Some(("panic", failpoint)) => arm(failpoint, FailAction::Actor),
            Some(("armed?", _)) => {}
            _ => break,
        }
        println!("{}", is_armed());
    }
    shop.stop().await;
    println!("{}", is_armed());
    Ok(())
}

/// A child process that runs the shop. It is killed when dropped.
pub struct Process {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts the process and waits until the shop is ready.
    pub async fn start(folder: &Folder, variables: &[(String, String)]) -> anyhow::Result<Process> {
        let log = folder.path().join("log");
        let mut command = Command::new(std::env::current_exe()?);
        command.env_clear().envs(variables.iter().cloned()).env(CHILD, "1").kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut process = Process { child, commands, answers, log };
        let ready = process.answers.next_line().await?;
        ensure!(ready.as_deref() == Some("ready"), "the shop did not start: {}", process.log());
        Ok(process)
    }

    /// Arms a failpoint: the action is executed once, when it is reached.
    pub async fn arm(&mut self, action: FailAction, failpoint: &str) -> anyhow::Result<()> {
        let command = if action == FailAction::Process { "kill" } else { "panic" };
        let answer = self.send(&format!("{command} {failpoint}\n")).await;
        ensure!(answer.as_deref() == Some("true"), "the failpoint is not armed: {answer:?}");
        Ok(())
    }

    /// Whether the armed failpoint was reached.
    pub async fn has_reached_failpoint(&mut self) -> bool {
        self.send("armed?\n").await.is_none_or(|armed| armed == "false")
    }

    /// Sends a command and returns the answer, or `None` if the process has ended.
    async fn send(&mut self, line: &str) -> Option<String> {
        self.commands.as_mut()?.write_all(line.as_bytes()).await.ok()?;
        self.answers.next_line().await.ok()?
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process has ended.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await;
        ended.context("the process does not end")??;
        Ok(())
    }

    /// Stops the shop gracefully. Returns whether the armed failpoint was reached.
    pub async fn stop(&mut self) -> anyhow::Result<bool> {
        self.commands = None;
        let armed = self.answers.next_line().await?;
        self.child.wait().await?;
        Ok(armed.is_none_or(|armed| armed == "false"))
    }

    /// The last lines of the log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
