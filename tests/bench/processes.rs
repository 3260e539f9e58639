//! Child processes, and the processor time and memory that Linux reports for process trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use shop_supervisor::embedded::ChildGuard;
use shop_tests::free_port;
use tokio::time::{sleep, timeout};

/// Unit of processor times in `/proc`: `USER_HZ`, which is 100 on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Shell script that writes its process id to `$0` and then executes the program.
const WRITE_PID: &str = r#"echo $$ >"$0"; exec "$@""#;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// A child process that ends with the benchmark.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub pid: u32,
    guard: ChildGuard,
    log: PathBuf,
}

impl Process {
    /// Starts `program`. Its output is written to a file in `folder`.
    pub async fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        variables: &[(String, String)],
        folder: &Path,
    ) -> anyhow::Result<Process> {
        let number = free_port(); // unique, unlike the name
        let pid_file = folder.join(format!("{name}-{number}.pid"));
        let log = folder.join(format!("{name}-{number}.log"));
        let output = File::create(&log)?;
        let mut command = ChildGuard::command(Path::new("sh"), "KILL");
        command.args(["-c", WRITE_PID]).arg(&pid_file).arg(program).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(variables.iter().cloned());
        command.stdout(output.try_clone()?).stderr(output);
        let guard = ChildGuard::spawn(command)?;
        let pid = async {
            loop {
                let pid = fs::read_to_string(&pid_file).unwrap_or_default();
                if let Some(pid) = pid.strip_suffix('\n') {
                    return pid.parse();
                }
                sleep(POLL).await;
            }
        };
        let pid = timeout(START_TIMEOUT, pid).await.context("the process does not start")??;
        Ok(Process { name: name.to_owned(), pid, guard, log })
    }

    /// Waits for `ready`. Fails if the process ends before.
    pub async fn wait_until(&mut self, ready: impl Future<Output = ()>) -> anyhow::Result<()> {
        let name = self.name.clone();
        let ended = tokio::select! {
            ended = self.guard.exited() => ended?,
            ready = timeout(START_TIMEOUT, ready) => {
                return ready.with_context(|| format!("{name} is not ready within 60 s"));
            }
        };
        bail!("{name} ended with {ended}: {}", self.log_tail())
    }

    /// The process tree of this process.
    pub fn process_trees(&self) -> ProcessTrees {
        vec![(self.name.clone(), self.pid)]
    }

    /// Stops the process gracefully.
    pub async fn stop(self) -> anyhow::Result<()> {
        let log = self.log_tail();
        let ended: ExitStatus = self.guard.stop("TERM", STOP_TIMEOUT).await?;
        ensure!(ended.success(), "{} ended with {ended}: {log}", self.name);
        Ok(())
    }

    /// Kills the process.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.guard.stop("KILL", STOP_TIMEOUT).await?;
        Ok(())
    }

    /// The last lines of the output.
    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

/// Process trees: the name in the report and the root's process id.
pub type ProcessTrees = Vec<(String, u32)>;

/// Processor time that a process tree has used so far, and its current memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

/// The usage of each process tree, by name.
pub fn usage(trees: &ProcessTrees) -> BTreeMap<String, Usage> {
    let all = Stat::all();
    let usage = |(name, root): &(String, u32)| (name.clone(), tree_usage(&all, *root));
    trees.iter().map(usage).collect()
}

/// Memory that the processes of a tree share, such as PostgreSQL's buffers, counts once.
fn tree_usage(all: &[Stat], root: u32) -> Usage {
    let mut tree = BTreeSet::from([root]);
    while let Some(found) = all.iter().find(|s| tree.contains(&s.parent) && !tree.contains(&s.pid))
    {
        tree.insert(found.pid);
    }
    let (mut ticks, mut own, mut shared) = (0, 0, 0);
    for stat in all.iter().filter(|stat| tree.contains(&stat.pid)) {
        ticks += stat.ticks + if stat.pid == root { stat.ticks_of_ended_children } else { 0 };
        let [anonymous, file, shared_memory] = ["RssAnon", "RssFile", "RssShmem"]
            .map(|name| memory(stat.pid, name).unwrap_or_default());
        own += anonymous;
        shared = shared.max(file + shared_memory);
    }
    Usage { cpu_seconds: ticks as f64 / TICKS_PER_SECOND, resident_bytes: own + shared }
}

/// A field of `/proc/PID/status` in bytes, or `None` if the process has ended.
pub fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Resets the process's peak memory (`VmHWM`) to its current memory.
pub fn reset_peak_memory(pid: u32) -> anyhow::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak memory")
}

/// A process according to `/proc/PID/stat`.
#[derive(Debug)]
struct Stat {
    pid: u32,
    parent: u32,
    /// User and system time, in ticks.
    ticks: u64,
    /// The same of its children that have ended.
    ticks_of_ended_children: u64,
}

impl Stat {
    fn all() -> Vec<Stat> {
        let Ok(processes) = fs::read_dir("/proc") else { return vec![] };
        let names = processes.flatten().map(|process| process.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok());
        pids.filter_map(Stat::read).collect()
    }

    fn read(pid: u32) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1; // the name may contain any character
        let fields = after_name.split_whitespace().collect::<Vec<_>>();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            ticks_of_ended_children: number(13)? + number(14)?,
        })
    }
}

/// The process that listens on this port of 127.0.0.1.
pub fn listener(port: u16) -> Option<u32> {
    const LISTENS: &str = "0A";
    let address = format!("0100007F:{port:04X}");
    let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|fields| {
        fields.get(1).is_some_and(|local| *local == address) && fields.get(3) == Some(&LISTENS)
    })?;
    let link = PathBuf::from(format!("socket:[{}]", socket.get(9)?));
    let holds = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == link)
    };
    Stat::all().iter().map(|stat| stat.pid).find(|pid| holds(*pid))
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    Stat::read(pid).map(|stat| stat.parent)
}

/// Waits until a process listens on this port of 127.0.0.1.
pub async fn wait_for_listener(port: u16) {
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        sleep(POLL).await;
    }
}

/// Waits until a process uses almost no processor time.
pub async fn wait_until_idle(pid: u32) -> anyhow::Result<()> {
    const INTERVAL: Duration = Duration::from_millis(250);
    const MAX_IDLE_TICKS: u64 = 2;
    let ticks = || Stat::read(pid).map(|stat| stat.ticks).context("the process has ended");
    let idle = async {
        loop {
            let before = ticks()?;
            sleep(INTERVAL).await;
            if ticks()? - before <= MAX_IDLE_TICKS {
                return Ok(());
            }
        }
    };
    timeout(IDLE_TIMEOUT, idle).await.context("a process is not idle within 60 s")?
}
