//! A process of the shop that is restarted whenever it exits.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use shop_runtime::Backoff;
use shop_supervisor::Node;
use shop_supervisor::embedded::ChildGuard;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{POLL_INTERVAL, READY_TIMEOUT};

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How a process is started.
#[derive(Debug)]
pub struct Run {
    pub name: String,
    pub node: Node,
    pub binary: PathBuf,
    pub variables: Vec<(String, String)>,
    pub logs: PathBuf,
}

impl Run {
    fn spawn(&self) -> std::io::Result<ChildGuard> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = ChildGuard::command(&self.binary, "KILL");
        command.args(["run", self.node.name()]).env_clear().envs(self.variables.iter().cloned());
        command.stdout(log.try_clone()?).stderr(log);
        ChildGuard::spawn(command)
    }

    fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    fn last_log_line(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }
}

/// A process of the shop. A task restarts it whenever it exits.
#[derive(Debug)]
pub struct Replica {
    name: String,
    port: u16,
    signals: mpsc::Sender<&'static str>,
    state: Arc<State>,
    restarts: AsyncMutex<JoinHandle<anyhow::Result<()>>>,
}

/// What the task shares with its replica.
#[derive(Debug, Default)]
struct State {
    /// The test killed the process, and the task has not noticed the exit yet.
    killed: AtomicBool,
    /// Exits that the test did not cause, with time and status.
    unexpected_exits: Mutex<Vec<String>>,
}

impl Replica {
    /// Starts the process, which serves HTTP at `port`.
    pub fn start(run: Run, port: u16) -> Replica {
        let (signals, received) = mpsc::channel(8);
        let (name, state) = (run.name.clone(), Arc::<State>::default());
        let restarts = tokio::spawn(keep_running(run, received, Arc::clone(&state)));
        Replica { name, port, signals, state, restarts: AsyncMutex::new(restarts) }
    }

    /// Its name, such as `order-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The exits that the test did not cause.
    pub fn unexpected_exits(&self) -> Vec<String> {
        self.state.unexpected_exits.lock().expect("no panic").clone()
    }

    /// Kills the process with SIGKILL and waits until its successor is alive.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.state.killed.store(true, Relaxed);
        self.signals.send("KILL").await?;
        let exited = async {
            while self.state.killed.load(Relaxed) {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(STOP_TIMEOUT, exited).await.context("it does not exit after SIGKILL")?;
        let alive = self.until_ok("/health/live");
        timeout(READY_TIMEOUT, alive).await.context("it does not start within 60 s")
    }

    /// Suspends the process for `duration`.
    pub async fn suspend(&self, duration: Duration) -> anyhow::Result<()> {
        self.signals.send("STOP").await?;
        sleep(duration).await;
        self.signals.send("CONT").await?;
        Ok(())
    }

    /// Waits until a path returns 200.
    pub async fn until_ok(&self, path: &str) {
        while !self.is_ok(path).await {
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn is_ok(&self, path: &str) -> bool {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
        let Ok(client) = client else { return false };
        let response = client.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await;
        response.is_ok_and(|response| response.status() == 200)
    }

    /// Stops the process with SIGTERM; returns the failure if it does not stop gracefully.
    pub async fn stop(&self) -> Option<String> {
        self.signals.send("TERM").await.ok();
        let mut restarts = self.restarts.lock().await;
        match timeout(STOP_TIMEOUT, &mut *restarts).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                restarts.abort();
                Some(format!("{} does not exit within 30 s", self.name))
            }
        }
    }
}

/// Restarts the process until it receives SIGTERM or its replica is dropped.
async fn keep_running(
    run: Run,
    mut signals: mpsc::Receiver<&'static str>,
    state: Arc<State>,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    loop {
        let mut process = run.spawn()?;
        let since = Instant::now();
        let mut stopping = false;
        let status = loop {
            tokio::select! {
                status = process.exited() => break status?,
                signal = signals.recv() => match signal {
                    Some(signal) => {
                        stopping |= signal == "TERM";
                        process.send(signal);
                    }
                    None => return Ok(()),
                },
            }
        };
        if stopping {
            ensure!(status.success(), "{} exited with {status}", run.name);
            return Ok(());
        }
        if !state.killed.swap(false, Relaxed) {
            let (name, seconds) = (&run.name, since.elapsed().as_secs_f64());
            let line = run.last_log_line();
            let exit = format!("{name} exited after {seconds:.1} s with {status}: {line}");
            eprintln!("{exit}");
            state.unexpected_exits.lock().expect("no panic").push(exit);
            sleep(backoff.next_delay()).await;
        }
    }
}
