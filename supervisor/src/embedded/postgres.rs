//! A private PostgreSQL cluster that starts and ends with the shop.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::time::{sleep, timeout};

use super::account::Account;
use super::binaries;
use super::leash::Leash;

/// Names the socket when there is no port to name it.
const DEFAULT_PORT: u16 = 5432;
/// What the kernel takes as a socket's path.
const SOCKET_PATH_BYTES: usize = 107;
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How the cluster runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a commit survives a power cut. Tests go without, which is much faster.
    pub durable: bool,
    /// The folder with `initdb` and `postgres`; found by itself when none is given.
    pub binaries: Option<PathBuf>,
    /// How many connections it accepts at a time.
    pub max_connections: u16,
    /// Also listens at this port of 127.0.0.1, where every local user is let in. For tests.
    pub port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true, binaries: None, max_connections: 100, port: None }
    }
}

/// A running cluster. Dropped, or with its process killed, it shuts down by itself; the next start
/// waits for that.
#[derive(Debug)]
pub struct Postgres {
    leash: Leash,
    sockets: PathBuf,
    port: u16,
    /// Locked as long as the shop uses the cluster.
    _lock: File,
}

impl Postgres {
    /// The superuser, who needs no password.
    pub const USER: &str = "shop";

    /// Starts the cluster in `folder`, which is created at the first start. Resolves when it accepts
    /// connections: after about 2 s the first time, 0.2 s later.
    ///
    /// # Errors
    /// When another shop uses the folder, PostgreSQL or the version that wrote the data is not
    /// installed, or the server does not start. The error says what to do.
    pub async fn start(folder: &Path, options: Options) -> anyhow::Result<Self> {
        let folder = &path::absolute(folder)?;
        let lock = lock(folder).await?;
        let log = Log::open(folder).await?;
        let account = &Account::serving(folder)?;
        let parent = folder.parent().unwrap_or(folder);
        ensure!(
            account.may_enter(parent),
            "the user that PostgreSQL runs as cannot enter {}: choose another data folder",
            parent.display()
        );
        let written_by = version(folder)?;
        let configured = options.binaries.as_deref().map(path::absolute).transpose()?;
        let binaries = &binaries::find(configured.as_deref(), written_by, account)?;
        if written_by.is_none() {
            create(folder, binaries, account, &log, options.durable).await?;
        }
        let sockets = sockets(folder, account)?;
        let mut command = Leash::command(&binaries.join("postgres"), "INT"); // fast shutdown
        command.arg("-D").arg(folder).args(settings(&options, &sockets));
        let leash = run(command, account, &log)?;
        let port = options.port.unwrap_or(DEFAULT_PORT);
        let mut postgres = Self { leash, sockets, port, _lock: lock };
        postgres.accepts_connections(folder, &log).await?;
        Ok(postgres)
    }

    /// Where the server listens that another shop runs in `folder` now, as socket folder and port; nothing when
    /// none runs.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn running(folder: &Path) -> anyhow::Result<Option<(PathBuf, u16)>> {
        match fs::read_to_string(folder.join("postmaster.pid")) {
            Ok(status) => {
                let mut lines = status.lines().skip(3);
                let port = lines.next().and_then(|port| port.trim().parse().ok());
                let sockets = lines.next().map(|path| PathBuf::from(path.trim()));
                Ok(sockets
                    .zip(port)
                    .filter(|(sockets, port)| is_ready(folder, &socket(sockets, *port))))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| {
                format!("cannot read {}: use the user it belongs to", folder.display())
            }),
        }
    }

    /// The folder of the socket, which stands where a host name would.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.sockets
    }

    /// The port: part of the socket's name, and listened at when the options say so.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resolves when the server has ended by itself, which it should not. Safe to cancel.
    pub async fn ended(&mut self) {
        if let Err(error) = self.leash.ended().await {
            tracing::error!(%error, "cannot watch over PostgreSQL");
        }
    }

    /// Closes all connections and shuts down; after 30 s by force, which loses nothing either.
    pub async fn stop(self) {
        if let Err(error) = self.leash.end("INT", STOP_PATIENCE).await {
            tracing::error!(%error, "cannot wait for the end of PostgreSQL");
        }
        fs::remove_dir(&self.sockets).ok(); // only if it is the short one, which is empty now
    }

    async fn accepts_connections(&mut self, folder: &Path, log: &Log) -> anyhow::Result<()> {
        let socket = socket(&self.sockets, self.port);
        let ready = async {
            while !is_ready(folder, &socket) {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            ended = self.leash.ended() => {
                bail!("PostgreSQL did not start ({}): {}", ended?, log.last_words())
            }
            ready = timeout(START_PATIENCE, ready) => ready.with_context(|| {
                format!("PostgreSQL did not start within 60 s: {}", log.last_words())
            }),
        }
    }
}

/// How long the lock is tried: whatever this process is just starting holds a copy of the open file until it runs its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Keeps other shops away from `folder` until the file is closed.
async fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.with_added_extension("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => sleep(POLL).await,
            Err(TryLockError::WouldBlock) => bail!(
                "another shop is running on the data in {}: stop it, or choose another data folder",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// What PostgreSQL has to say since its start. Every one of its processes inherits the open file and
/// with it the lock on it, so that the lock tells whether any is left of the last shop's.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.with_added_extension("log");
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let free = timeout(START_PATIENCE, async {
            while let Err(TryLockError::WouldBlock) = file.try_lock() {
                sleep(POLL).await;
            }
        });
        free.await.with_context(|| {
            format!("a PostgreSQL still runs on {} after 60 s: end it", folder.display())
        })?;
        file.set_len(0)?;
        Ok(Self { path, file })
    }

    /// The line that best tells why a start failed.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.path).unwrap_or_default();
        let cause = |line: &str| {
            let at = ["FATAL:", "PANIC:", "error:"].iter().find_map(|mark| line.find(mark))?;
            Some(line[at..].to_owned())
        };
        let last = || log.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
        let words = log.lines().rev().find_map(cause).or_else(last);
        words.unwrap_or_else(|| format!("{} is empty", self.path.display()))
    }
}

/// The major version that wrote the cluster in `folder`, if there is one.
fn version(folder: &Path) -> anyhow::Result<Option<u32>> {
    match fs::read_to_string(folder.join("PG_VERSION")) {
        Ok(version) => Ok(binaries::major(&version)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read {}: start the shop as the user it belongs to", folder.display())
        }),
    }
}

/// Makes a cluster elsewhere and then gives it its name, so that there is never half a cluster.
async fn create(
    folder: &Path,
    binaries: &Path,
    account: &Account,
    log: &Log,
    durable: bool,
) -> anyhow::Result<()> {
    let half = &folder.with_added_extension("tmp");
    if half.exists() {
        fs::remove_dir_all(half).with_context(|| format!("cannot remove {}", half.display()))?;
    }
    private_folder(half, account)?;
    let mut command = Leash::command(&binaries.join("initdb"), "KILL");
    command.arg("-D").arg(half).args([
        "-U",
        Postgres::USER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
    ]);
    if !durable {
        command.arg("--no-sync");
    }
    let ended = run(command, account, log)?.ended().await?;
    ensure!(ended.success(), "initdb made no PostgreSQL cluster: {}", log.last_words());
    fs::rename(half, folder)
        .with_context(|| format!("{} is in the way: move it elsewhere", folder.display()))?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
    Ok(())
}

fn settings(options: &Options, sockets: &Path) -> Vec<String> {
    let listen = if options.port.is_some() { "127.0.0.1" } else { "" };
    let mut settings = vec![
        format!("listen_addresses={listen}"),
        format!("port={}", options.port.unwrap_or(DEFAULT_PORT)),
        format!("unix_socket_directories={}", sockets.display()),
        "unix_socket_permissions=0700".into(),
        format!("max_connections={}", options.max_connections),
        "shared_buffers=64MB".into(),
        "max_logical_replication_workers=0".into(),
        "jit=off".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "log_min_messages=log".into(), // a violated constraint is an answer: no line for each
        "log_checkpoints=off".into(),
        "cluster_name=shop".into(),
    ];
    if !options.durable {
        settings.extend(
            ["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(Into::into),
        );
    }
    settings.into_iter().flat_map(|setting| ["-c".into(), setting]).collect()
}

fn run(mut command: Command, account: &Account, log: &Log) -> io::Result<Leash> {
    account.take(&mut command);
    command.env("LC_ALL", "C").stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
    Leash::hold(command)
}

/// The socket lies in the cluster, which nobody else can enter, unless that path is longer than a
/// socket's may be or would have to be quoted.
fn sockets(folder: &Path, account: &Account) -> anyhow::Result<PathBuf> {
    let plain = folder.to_str().is_some_and(|path| !path.contains([',', '"']));
    if plain && socket(folder, u16::MAX).as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok(folder.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let short = PathBuf::from(format!("/tmp/shop-{:016x}", hasher.finish()));
    private_folder(&short, account)?;
    Ok(short)
}

/// A folder that only `account` can enter: a new one, or one that is so already.
fn private_folder(folder: &Path, account: &Account) -> anyhow::Result<()> {
    let created = match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => account.own(folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(folder)?;
            let private = found.is_dir() && found.mode() & 0o077 == 0;
            if private && found.uid() == account.uid() { Ok(()) } else { Err(error) }
        }
        Err(error) => Err(error),
    };
    created.with_context(|| format!("cannot create {}", folder.display()))
}

fn socket(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

/// The server writes down when it is ready. What a killed one wrote does not count: nobody answers at
/// its socket.
fn is_ready(folder: &Path, socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
        && fs::read_to_string(folder.join("postmaster.pid"))
            .is_ok_and(|status| status.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
}
