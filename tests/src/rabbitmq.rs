//! RabbitMQ servers, independent of any that the system runs.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, bail};
use shop_supervisor::embedded::ChildGuard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::{Folder, free_port};

/// Debian's `rabbitmq-server` on the path must run as root or its own user; this one need not.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// The protocol header that a client sends first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A RabbitMQ server. It exits with the test process, and its data is deleted. User and password are
/// `guest`.
#[derive(Debug)]
pub struct RabbitMq {
    program: PathBuf,
    folder: Folder,
    port: u16,
    distribution_port: u16,
    running: Option<ChildGuard>,
}

impl RabbitMq {
    /// The server that all tests of this process share, started on the first call.
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not start; the next call tries again.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Starts another, empty server and waits until it accepts connections: about 10 s.
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut broker = Self {
            program: program()?,
            folder: Folder::new("shop-rabbitmq")?,
            port: free_port(),
            distribution_port: free_port(),
            running: None,
        };
        let listener = format!("listeners.tcp.local = 127.0.0.1:{}\n", broker.port);
        fs::write(broker.path("rabbitmq.conf"), listener + "disk_free_limit.absolute = 1MB\n")?;
        fs::write(broker.path("plugins"), "[].\n")?;
        broker.start_again().await?;
        Ok(broker)
    }

    /// The port at 127.0.0.1, the same after every start.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server with its data and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        let mut broker = self.spawn_service()?;
        tokio::select! {
            ended = broker.exited() => {
                bail!("RabbitMQ did not start ({}): {}", ended?, self.last_words())
            }
            answered = timeout(START_TIMEOUT, self.until_connected()) => answered.with_context(|| {
                format!("RabbitMQ did not start within 120 s: {}", self.last_words())
            })?,
        }
        self.running = Some(broker);
        Ok(())
    }

    /// Stops it gracefully.
    ///
    /// # Errors
    /// When its exit cannot be awaited.
    pub async fn stop(&mut self) -> io::Result<()> {
        self.end("TERM").await
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When its exit cannot be awaited.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.end("KILL").await
    }

    /// The folder of its logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path("log")
    }

    /// Suspends it (`STOP`), or resumes it (`CONT`).
    pub fn signal(&mut self, signal: &str) {
        if let Some(broker) = &mut self.running {
            broker.send(signal);
        }
    }

    async fn end(&mut self, signal: &str) -> io::Result<()> {
        if let Some(broker) = self.running.take() {
            broker.stop(signal, STOP_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Starts the server. Its environment keeps it away from the files of the system's own RabbitMQ.
    fn spawn_service(&self) -> io::Result<ChildGuard> {
        let log = OpenOptions::new().create(true).append(true).open(self.path("output"))?;
        let mut command = ChildGuard::command(&self.program, "KILL");
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", self.folder.path()) // the Erlang cookie
            .env("RUNNING_UNDER_SYSTEMD", "1") // no script receives the signals instead
            .env("RABBITMQ_NODENAME", format!("shop-{}@localhost", self.port))
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", self.path("none"))
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.path("none.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.path("generated"))
            .env("RABBITMQ_SCHEMA_DIR", self.path("schema"))
            .env("RABBITMQ_MNESIA_BASE", self.path("data"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("plugins"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .stdout(log.try_clone()?)
            .stderr(Stdio::from(log));
        ChildGuard::spawn(command)
    }

    async fn until_connected(&self) {
        while self.connect().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn connect(&self) -> io::Result<u8> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await?;
        connection.write_all(PROTOCOL_HEADER).await?;
        connection.read_u8().await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn last_words(&self) -> String {
        let output = fs::read_to_string(self.path("output")).unwrap_or_default();
        let lines = output.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("rabbitmq-server"));
    std::iter::once(PathBuf::from(DEBIAN)).chain(on_path).find(|program| Path::is_file(program)).context(
        "RabbitMQ is not installed: install it (Debian and Ubuntu: apt-get install rabbitmq-server)",
    )
}
