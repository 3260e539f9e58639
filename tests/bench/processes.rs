//! Processes on a guard, and what Linux says of them: time on the processors, memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use shop_supervisor::embedded::ChildGuard;
use shop_tests::free_port;
use tokio::time::{sleep, timeout};

/// Linux counts processor time for programs in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Says which process it is before it becomes the program.
const SAY_WHO: &str = r#"echo $$ >"$0"; exec "$@""#;

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// A program that ends when the benchmark does.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub pid: u32,
    guard: ChildGuard,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; its output goes to a file in `folder`.
    pub async fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        variables: &[(String, String)],
        folder: &Path,
    ) -> anyhow::Result<Process> {
        let number = free_port(); // names are used again, ports are not
        let who = folder.join(format!("{name}-{number}.pid"));
        let log = folder.join(format!("{name}-{number}.log"));
        let output = File::create(&log)?;
        let mut command = ChildGuard::command(Path::new("sh"), "KILL");
        command.args(["-c", SAY_WHO]).arg(&who).arg(program).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(variables.iter().cloned());
        command.stdout(output.try_clone()?).stderr(output);
        let guard = ChildGuard::spawn(command)?;
        let said = async {
            loop {
                let pid = fs::read_to_string(&who).unwrap_or_default();
                if let Some(pid) = pid.strip_suffix('\n') {
                    return pid.parse();
                }
                sleep(POLL).await;
            }
        };
        let pid = timeout(START_PATIENCE, said).await.context("no process starts")??;
        Ok(Process { name: name.to_owned(), pid, guard, log })
    }

    /// Waits for `ready`, unless the process ends before.
    pub async fn until(&mut self, ready: impl Future<Output = ()>) -> anyhow::Result<()> {
        let name = self.name.clone();
        let ended = tokio::select! {
            ended = self.guard.exited() => ended?,
            ready = timeout(START_PATIENCE, ready) => {
                return ready.with_context(|| format!("{name} is not ready after 60 s"));
            }
        };
        bail!("{name} ended with {ended}: {}", self.last_words())
    }

    /// Itself, by its name.
    pub fn watched(&self) -> Watched {
        vec![(self.name.clone(), self.pid)]
    }

    /// Ends it in good order.
    pub async fn stop(self) -> anyhow::Result<()> {
        let words = self.last_words();
        let ended: ExitStatus = self.guard.stop("TERM", STOP_PATIENCE).await?;
        ensure!(ended.success(), "{} ended with {ended}: {words}", self.name);
        Ok(())
    }

    /// Ends it at once.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.guard.stop("KILL", STOP_PATIENCE).await?;
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

/// Process trees by the name they have in the report, each by its root.
pub type Watched = Vec<(String, u32)>;

/// What a process tree has used and uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

/// What each of these process trees uses now.
pub fn usage(watched: &Watched) -> BTreeMap<String, Usage> {
    let all = Stat::all();
    let usage = |(name, root): &(String, u32)| (name.clone(), tree_usage(&all, *root));
    watched.iter().map(usage).collect()
}

/// What is shared in a tree, such as PostgreSQL's buffers, counts once.
fn tree_usage(all: &[Stat], root: u32) -> Usage {
    let mut tree = BTreeSet::from([root]);
    while let Some(found) = all.iter().find(|s| tree.contains(&s.parent) && !tree.contains(&s.pid))
    {
        tree.insert(found.pid);
    }
    let (mut ticks, mut own, mut shared) = (0, 0, 0);
    for stat in all.iter().filter(|stat| tree.contains(&stat.pid)) {
        ticks += stat.ticks + if stat.pid == root { stat.ticks_of_ended } else { 0 };
        let [anonymous, file, shared_memory] = ["RssAnon", "RssFile", "RssShmem"]
            .map(|name| memory(stat.pid, name).unwrap_or_default());
        own += anonymous;
        shared = shared.max(file + shared_memory);
    }
    Usage { cpu_seconds: ticks as f64 / TICKS_PER_SECOND, resident_bytes: own + shared }
}

/// A line of `/proc/PID/status`, in bytes; nothing when the process is gone.
pub fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// From now on the process's most memory (`VmHWM`) is what it uses from now on.
pub fn forget_most_memory(pid: u32) -> anyhow::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the most memory")
}

/// A process as `/proc/PID/stat` has it.
#[derive(Debug)]
struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
    /// Of its children that have ended.
    ticks_of_ended: u64,
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
        let after_name = stat.rsplit_once(')')?.1; // the name may hold anything
        let fields = after_name.split_whitespace().collect::<Vec<_>>();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Stat {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            ticks_of_ended: number(13)? + number(14)?,
        })
    }
}

/// The process that listens at this port of 127.0.0.1.
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

/// Waits until something listens at this port of 127.0.0.1.
pub async fn listens(port: u16) {
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        sleep(POLL).await;
    }
}

/// Waits until a process does next to nothing.
pub async fn idle(pid: u32) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_millis(250);
    const NEXT_TO_NOTHING: u64 = 2;
    let ticks = || Stat::read(pid).map(|stat| stat.ticks).context("the process is gone");
    let settled = async {
        loop {
            let before = ticks()?;
            sleep(LOOK).await;
            if ticks()? - before <= NEXT_TO_NOTHING {
                return Ok(());
            }
        }
    };
    timeout(STOP_PATIENCE, settled).await.context("a process does not come to rest")?
}
