//! A private PostgreSQL cluster that starts and stops with the shop.

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

use super::binaries;
use super::child_guard::ChildGuard;
use super::run_as::RunAsUser;

/// Part of the socket's name when the server listens on no port.
const DEFAULT_PORT: u16 = 5432;
/// Maximum length of a socket's path (`sockaddr_un`).
const SOCKET_PATH_BYTES: usize = 107;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How the cluster runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a commit survives a power failure. Tests turn it off to be faster.
    pub durable: bool,
    /// The directory with `initdb` and `postgres`; `None` searches the usual places.
    pub binaries: Option<PathBuf>,
    /// Maximum number of connections.
    pub max_connections: u16,
    /// Also listens on this port of 127.0.0.1, without authentication. For tests.
    pub port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true, binaries: None, max_connections: 100, port: None }
    }
}

/// A running cluster. When this value is dropped or its process is killed, the server shuts down;
/// the next start waits for that.
#[derive(Debug)]
pub struct Postgres {
    server: ChildGuard,
    socket_directory: PathBuf,
    port: u16,
    /// Locked while the shop uses the cluster.
    _lock: File,
}

impl Postgres {
    /// The superuser, which has no password.
    pub const USER: &str = "shop";

    /// Starts the cluster in `directory` and creates it at the first start. Returns when it accepts
    /// connections: after about 2 s at the first start, 0.2 s later.
    ///
    /// # Errors
    /// When another shop uses the directory, PostgreSQL or the version that wrote the data is not
    /// installed, or the server does not start. The error says what to do.
    pub async fn start(directory: &Path, options: Options) -> anyhow::Result<Self> {
        let directory = &path::absolute(directory)?;
        let lock = lock(directory).await?;
        let log = Log::open(directory).await?;
        let user = &RunAsUser::for_cluster(directory)?;
        let parent = directory.parent().unwrap_or(directory);
        ensure!(
            user.can_enter(parent),
            "the user that PostgreSQL runs as cannot enter {}: choose another data directory",
            parent.display()
        );
        let written_by = version(directory)?;
        let configured = options.binaries.as_deref().map(path::absolute).transpose()?;
        let binaries = &binaries::find(configured.as_deref(), written_by, user)?;
        if written_by.is_none() {
            create(directory, binaries, user, &log, options.durable).await?;
        }
        let socket_directory = choose_socket_directory(directory, user)?;
        let mut command = ChildGuard::command(&binaries.join("postgres"), "INT"); // fast shutdown
        command.arg("-D").arg(directory).args(settings(&options, &socket_directory));
        let server = run(command, user, &log)?;
        let port = options.port.unwrap_or(DEFAULT_PORT);
        let mut postgres = Self { server, socket_directory, port, _lock: lock };
        postgres.wait_until_ready(directory, &log).await?;
        Ok(postgres)
    }

    /// The socket directory and port of the server that another shop runs in `directory` now, if any.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn running(directory: &Path) -> anyhow::Result<Option<(PathBuf, u16)>> {
        match fs::read_to_string(directory.join("postmaster.pid")) {
            Ok(status) => {
                let mut lines = status.lines().skip(3);
                let port = lines.next().and_then(|port| port.trim().parse().ok());
                let sockets = lines.next().map(|path| PathBuf::from(path.trim()));
                let is_ready =
                    |(sockets, port): &(PathBuf, u16)| is_ready(directory, &socket(sockets, *port));
                Ok(sockets.zip(port).filter(is_ready))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| {
                format!("cannot read {}: run as the user it belongs to", directory.display())
            }),
        }
    }

    /// The directory of the socket. Clients take it as host name.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    /// The port: part of the socket's name, and a TCP port if [`Options::port`] is set.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resolves when the server has exited by itself, which is a failure. Cancellation safe.
    pub async fn exited(&mut self) {
        if let Err(error) = self.server.exited().await {
            tracing::error!(%error, "cannot wait for the exit of PostgreSQL");
        }
    }

    /// Closes all connections and shuts down. After 30 s it kills the server, which loses no commit.
    pub async fn stop(self) {
        if let Err(error) = self.server.stop("INT", STOP_TIMEOUT).await {
            tracing::error!(%error, "cannot wait for the exit of PostgreSQL");
        }
        fs::remove_dir(&self.socket_directory).ok(); // succeeds only for the short one, which is empty
    }

    async fn wait_until_ready(&mut self, directory: &Path, log: &Log) -> anyhow::Result<()> {
        let socket = socket(&self.socket_directory, self.port);
        let ready = async {
            while !is_ready(directory, &socket) {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            exited = self.server.exited() => {
                bail!("PostgreSQL did not start ({}): {}", exited?, log.cause_of_failure())
            }
            ready = timeout(START_TIMEOUT, ready) => ready.with_context(|| {
                format!("PostgreSQL did not start within 60 s: {}", log.cause_of_failure())
            }),
        }
    }
}

/// How long to retry the lock: a process that this one is forking inherits the open file until it
/// executes its program.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Locks `directory` against other shops until the file is closed.
async fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.with_added_extension("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_TIMEOUT => sleep(POLL).await,
            Err(TryLockError::WouldBlock) => bail!(
                "another shop is running on the data in {}: stop it, or choose another data directory",
                directory.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// PostgreSQL's log since its start. Each of its processes inherits the open file and the lock on it,
/// so that the lock shows whether any process of the previous shop still runs.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    async fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.with_added_extension("log");
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let free = timeout(START_TIMEOUT, async {
            while let Err(TryLockError::WouldBlock) = file.try_lock() {
                sleep(POLL).await;
            }
        });
        free.await.with_context(|| {
            format!("a PostgreSQL still runs on {} after 60 s: stop it", directory.display())
        })?;
        file.set_len(0)?;
        Ok(Self { path, file })
    }

    /// The line that best explains why a start failed.
    fn cause_of_failure(&self) -> String {
        let log = fs::read_to_string(&self.path).unwrap_or_default();
        let cause = |line: &str| {
            let at = ["FATAL:", "PANIC:", "error:"].iter().find_map(|mark| line.find(mark))?;
            Some(line[at..].to_owned())
        };
        let last = || log.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
        let line = log.lines().rev().find_map(cause).or_else(last);
        line.unwrap_or_else(|| format!("{} is empty", self.path.display()))
    }
}

/// The major version that wrote the cluster in `directory`, if there is one.
fn version(directory: &Path) -> anyhow::Result<Option<u32>> {
    match fs::read_to_string(directory.join("PG_VERSION")) {
        Ok(version) => Ok(binaries::major(&version)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read {}: start the shop as the user it belongs to", directory.display())
        }),
    }
}

/// Creates the cluster in a temporary directory and renames it, so that an interrupted start never
/// leaves half a cluster.
async fn create(
    directory: &Path,
    binaries: &Path,
    user: &RunAsUser,
    log: &Log,
    durable: bool,
) -> anyhow::Result<()> {
    let temporary = &directory.with_added_extension("tmp");
    if temporary.exists() {
        fs::remove_dir_all(temporary)
            .with_context(|| format!("cannot remove {}", temporary.display()))?;
    }
    create_private(temporary, user)?;
    let mut command = ChildGuard::command(&binaries.join("initdb"), "KILL");
    command.arg("-D").arg(temporary).args([
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
    let exited = run(command, user, log)?.exited().await?;
    ensure!(exited.success(), "initdb created no PostgreSQL cluster: {}", log.cause_of_failure());
    fs::rename(temporary, directory)
        .with_context(|| format!("{} already exists: move it elsewhere", directory.display()))?;
    directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
    Ok(())
}

fn settings(options: &Options, socket_directory: &Path) -> Vec<String> {
    let listen = if options.port.is_some() { "127.0.0.1" } else { "" };
    let mut settings = vec![
        format!("listen_addresses={listen}"),
        format!("port={}", options.port.unwrap_or(DEFAULT_PORT)),
        format!("unix_socket_directories={}", socket_directory.display()),
        "unix_socket_permissions=0700".into(),
        format!("max_connections={}", options.max_connections),
        "shared_buffers=64MB".into(),
        "max_logical_replication_workers=0".into(),
        "jit=off".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "log_min_messages=log".into(), // a violated constraint is an expected reply: no log line
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

fn run(mut command: Command, user: &RunAsUser, log: &Log) -> io::Result<ChildGuard> {
    user.apply(&mut command);
    command.env("LC_ALL", "C").stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
    ChildGuard::spawn(command)
}

/// The socket is in the cluster's directory, which no other user can enter, unless the path is too
/// long for a socket or contains characters that would have to be quoted.
fn choose_socket_directory(directory: &Path, user: &RunAsUser) -> anyhow::Result<PathBuf> {
    let plain = directory.to_str().is_some_and(|path| !path.contains([',', '"']));
    if plain && socket(directory, u16::MAX).as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok(directory.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    let short = PathBuf::from(format!("/tmp/shop-{:016x}", hasher.finish()));
    create_private(&short, user)?;
    Ok(short)
}

/// Creates a directory that only `user` can enter, or accepts an existing one that is so.
fn create_private(directory: &Path, user: &RunAsUser) -> anyhow::Result<()> {
    let created = match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => user.chown(directory),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(directory)?;
            let private = found.is_dir() && found.mode() & 0o077 == 0;
            if private && found.uid() == user.uid() { Ok(()) } else { Err(error) }
        }
        Err(error) => Err(error),
    };
    created.with_context(|| format!("cannot create {}", directory.display()))
}

fn socket(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// The server writes to `postmaster.pid` when it is ready. After a kill the file remains, but the
/// socket refuses connections.
fn is_ready(directory: &Path, socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
        && fs::read_to_string(directory.join("postmaster.pid"))
            .is_ok_and(|status| status.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
}
