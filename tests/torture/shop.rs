//! The shop under torture: five processes of the release binary, a PostgreSQL and a RabbitMQ, and a link
//! between any two that talk.
//!
//! ```text
//! clients ─► auth-1      ─► PostgreSQL, RabbitMQ
//!         ─► catalog-1,2 ─► PostgreSQL, RabbitMQ, auth-1
//!         ─► order-1,2   ─► PostgreSQL, RabbitMQ, auth-1
//! ```

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use shop_messaging::topology;
use shop_runtime::Backoff;
use shop_supervisor::Node;
use shop_supervisor::embedded::{ChildGuard, Postgres};
use shop_tests::postgres::PostgresServer;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{free_port, signal};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::faults::{Target, Targets};
use shop_tests::fault_proxy::FaultProxy;

/// The password of every administrator and user.
pub const PASSWORD: &str = "correct horse";

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The processes, by node.
const REPLICAS: [Node; 5] = [Node::Auth, Node::Catalog, Node::Catalog, Node::Order, Node::Order];
const READY_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const SQL_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// All of it.
#[derive(Debug)]
pub struct Shop {
    cluster: AsyncMutex<PostgresServer>,
    broker: AsyncMutex<RabbitMq>,
    pub replicas: Vec<Replica>,
    pub links: Vec<FaultProxy>,
    /// The ways of the clients to each node.
    edges: Vec<(Node, String)>,
    binary: PathBuf,
    direct: Vec<(String, String)>,
    pub broker_port: u16,
    database_port: u16,
}

impl Shop {
    /// Starts everything; the processes' logs go to `logs`.
    pub async fn start(binary: PathBuf, logs: &Path) -> anyhow::Result<Shop> {
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let (cluster, broker) = tokio::join!(PostgresServer::durable(), RabbitMq::start());
        let (cluster, broker) = (cluster?, broker?);
        let ports = REPLICAS.map(|_| free_port());
        let (database_port, broker_port) = (cluster.server().port(), broker.port());
        let (mut replicas, mut links, mut edges) = (vec![], vec![], vec![]);
        for (place, node) in REPLICAS.into_iter().enumerate() {
            let number = REPLICAS[..=place].iter().filter(|other| **other == node).count();
            let name = format!("{}-{number}", node.name());
            let mut open = async |from: &str, to: &str, port: u16| {
                let link = FaultProxy::open(format!("{from} to {to}"), port).await?;
                let port = link.port();
                links.push(link);
                anyhow::Ok(port)
            };
            let database = open(&name, "PostgreSQL", database_port).await?;
            let rabbitmq = open(&name, "RabbitMQ", broker_port).await?;
            let mut variables = variables(&[node], database, rabbitmq);
            variables.push((key(node, "HTTP__PORT"), ports[place].to_string()));
            if node != Node::Auth {
                let auth = open(&name, "auth-1", ports[0]).await?;
                variables.push((key(node, "AUTH_URL"), format!("http://127.0.0.1:{auth}")));
            }
            let edge = open("clients", &name, ports[place]).await?;
            edges.push((node, format!("http://127.0.0.1:{edge}")));
            let run = Run { name, node, binary: binary.clone(), variables, logs: logs.to_owned() };
            replicas.push(Replica::keep(run, ports[place]));
        }
        let shop = Shop {
            cluster: AsyncMutex::new(cluster),
            broker: AsyncMutex::new(broker),
            replicas,
            links,
            edges,
            binary,
            direct: variables(&Node::ALL, database_port, broker_port),
            broker_port,
            database_port,
        };
        shop.ready().await?;
        Ok(shop)
    }

    /// What faults can happen to.
    pub fn targets() -> Targets {
        let edges = REPLICAS.len();
        let to_auth = REPLICAS.iter().filter(|node| **node != Node::Auth).count();
        Targets { replicas: REPLICAS.len(), links: 2 * REPLICAS.len() + to_auth + edges }
    }

    /// What a fault happens to, for people.
    pub fn name(&self, target: Target) -> String {
        match target {
            Target::Replica(place) => self.replicas[place].name.clone(),
            Target::Broker => "RabbitMQ".to_owned(),
            Target::Postmaster => "PostgreSQL".to_owned(),
            Target::Backend(_) => "a backend of PostgreSQL".to_owned(),
            Target::Connection(place) => self.links[place].name().to_owned(),
        }
    }

    /// Where a node's replicas are, for clients.
    pub fn edges(&self, node: Node) -> Vec<String> {
        let of = |(other, url): &(Node, String)| (*other == node).then(|| url.clone());
        self.edges.iter().filter_map(of).collect()
    }

    /// Waits until every process is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for replica in &self.replicas {
            let ready = timeout(READY_PATIENCE, replica.answers("/health/ready")).await;
            ready.with_context(|| format!("{} is not ready after 60 s", replica.name))?;
        }
        Ok(())
    }

    /// A connection of our own to a node's database, past its link.
    pub async fn database(&self, node: Node) -> anyhow::Result<PgConnection> {
        self.connect(&format!("{}_db", node.name())).await
    }

    async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.database_port)
            .username(Postgres::USER)
            .database(database);
        Ok(timeout(SQL_PATIENCE, PgConnection::connect_with(&options)).await??)
    }

    /// `kill -9` of RabbitMQ. Resolves when it answers again.
    pub async fn kill_broker(&self) -> anyhow::Result<()> {
        let mut broker = self.broker.lock().await;
        broker.kill().await?;
        broker.start_again().await
    }

    /// Stops RabbitMQ where it stands, for so long.
    pub async fn stop_broker(&self, lasts: Duration) -> anyhow::Result<()> {
        let mut broker = self.broker.lock().await;
        broker.signal("STOP");
        sleep(lasts).await;
        broker.signal("CONT");
        Ok(())
    }

    /// `kill -9` of the postmaster. Resolves when PostgreSQL answers again.
    pub async fn kill_postmaster(&self) -> anyhow::Result<()> {
        let mut cluster = self.cluster.lock().await;
        cluster.kill().await?;
        cluster.start_again().await?;
        self.answers().await
    }

    /// `kill -9` of a backend, whereupon the postmaster ends all others. Resolves when it takes connections again.
    pub async fn kill_backend(&self, choice: usize) -> anyhow::Result<()> {
        let _alone = self.cluster.lock().await;
        let mut connection = self.connect("postgres").await?;
        signal("KILL", backend(&mut connection, choice).await?).await?;
        let broken = async { while connection.ping().await.is_ok() {} };
        timeout(SQL_PATIENCE, broken).await.context("PostgreSQL does not mind")?;
        self.answers().await
    }

    /// Stops a backend where it stands, with the locks that it holds, for so long.
    pub async fn stop_backend(&self, choice: usize, lasts: Duration) -> anyhow::Result<()> {
        let _alone = self.cluster.lock().await;
        let pid = backend(&mut self.connect("postgres").await?, choice).await?;
        signal("STOP", pid).await?;
        sleep(lasts).await;
        signal("CONT", pid).await?;
        Ok(())
    }

    async fn answers(&self) -> anyhow::Result<()> {
        let answers = async {
            while self.connect("postgres").await.is_err() {
                sleep(POLL).await;
            }
        };
        timeout(READY_PATIENCE, answers).await.context("PostgreSQL does not take connections")
    }

    /// What `shop verify` says of the databases, which it reaches directly.
    pub async fn verify(&self) -> anyhow::Result<Ledger> {
        let mut verify = tokio::process::Command::new(&self.binary);
        verify.arg("verify").env_clear().envs(self.direct.iter().cloned()).current_dir("/");
        verify.stdin(Stdio::null()).kill_on_drop(true);
        let said =
            timeout(READY_PATIENCE, verify.output()).await.context("shop verify hangs")??;
        let words = [said.stdout, said.stderr].concat();
        Ok(match said.status.code() {
            Some(0) => Ledger::Agrees,
            _ => Ledger::Differs(String::from_utf8_lossy(&words).into_owned()),
        })
    }

    /// Keeps what PostgreSQL (since its last start) and RabbitMQ said, which goes away with them.
    pub async fn keep_logs(&self, logs: &Path) -> anyhow::Result<()> {
        fs::copy(self.cluster.lock().await.log(), logs.join("postgres.log"))?;
        for log in fs::read_dir(self.broker.lock().await.logs())?.flatten() {
            if log.file_type()?.is_file() {
                fs::copy(log.path(), logs.join(log.file_name()))?;
            }
        }
        Ok(())
    }

    /// Ends all processes in good order; says which did not.
    pub async fn stop(&self) -> Vec<String> {
        let stopped = self.replicas.iter().map(Replica::end);
        futures::future::join_all(stopped).await.into_iter().flatten().collect()
    }

    /// What the processes ended by themselves: when and with what.
    pub fn ends(&self) -> Vec<String> {
        let ends = |replica: &Replica| replica.ends.lock().expect("no panic").clone();
        self.replicas.iter().flat_map(ends).collect()
    }
}

/// What `shop verify` says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ledger {
    Agrees,
    /// With all it said.
    Differs(String),
}

/// One of the backends that serve the nodes, once there are any.
async fn backend(connection: &mut PgConnection, choice: usize) -> anyhow::Result<u32> {
    const BACKENDS: &str = "
        select pid from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() order by pid";
    let found = async {
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(BACKENDS).fetch_all(&mut *connection).await?;
            if let Some(pid) = pids.get(choice % pids.len().max(1)) {
                return anyhow::Ok(u32::try_from(*pid)?);
            }
            sleep(POLL).await;
        }
    };
    timeout(READY_PATIENCE, found).await.context("no node connects to PostgreSQL within 60 s")?
}

fn key(node: Node, key: &str) -> String {
    format!("SHOP__{}__{key}", node.name().to_uppercase())
}

/// The configuration of a process that runs some nodes.
fn variables(nodes: &[Node], database: u16, broker: u16) -> Vec<(String, String)> {
    let mut variables = vec![];
    let mut set = |key: String, value: String| variables.push((key, value));
    for (key, value) in [
        ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
        ("SHOP__EMBEDDED__POSTGRES", "false"),
        ("SHOP__EMBEDDED__BROKER", "false"),
        ("SHOP__JWT__SECRET_KEY", SECRET),
        ("SHOP__JWT__ACCESS_TOKEN_EXPIRE_MINUTES", "1"), // so that clients must sign in again
        ("SHOP__AUTH__BCRYPT_COST", "4"),
        ("SHOP__AUTH__ADMIN__PASSWORD", PASSWORD),
        ("SHOP__RABBITMQ__PORT", &broker.to_string()),
    ] {
        set(key.to_owned(), value.to_owned());
    }
    for node in nodes {
        set(key(*node, "DATABASE__PORT"), database.to_string());
        set(key(*node, "DATABASE__USER"), Postgres::USER.to_owned());
    }
    variables
}

/// The names of RabbitMQ's queues of dead letters.
pub fn dead_letter_queues() -> impl Iterator<Item = String> {
    topology::QUEUES.iter().map(|queue| topology::dead(queue.name))
}

/// How a process is run.
#[derive(Debug)]
struct Run {
    name: String,
    node: Node,
    binary: PathBuf,
    variables: Vec<(String, String)>,
    logs: PathBuf,
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

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }
}

/// A process of the shop, started again whenever it ends.
#[derive(Debug)]
pub struct Replica {
    name: String,
    port: u16,
    signals: mpsc::Sender<&'static str>,
    killed: Arc<AtomicBool>,
    /// When it ended by itself, and with what.
    ends: Arc<Mutex<Vec<String>>>,
    keeper: AsyncMutex<JoinHandle<anyhow::Result<()>>>,
}

impl Replica {
    fn keep(run: Run, port: u16) -> Replica {
        let (signals, mut received) = mpsc::channel(8);
        let killed = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(Mutex::new(vec![]));
        let name = run.name.clone();
        let (by_us, by_itself) = (Arc::clone(&killed), Arc::clone(&ends));
        let keeper = tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
            loop {
                let mut process = run.spawn()?;
                let since = Instant::now();
                let mut stopping = false;
                let status = loop {
                    tokio::select! {
                        status = process.exited() => break status?,
                        signal = received.recv() => match signal {
                            Some(signal) => {
                                stopping |= signal == "TERM";
                                process.send(signal);
                            }
                            None => return Ok(()),
                        },
                    }
                };
                if stopping {
                    ensure!(status.success(), "{} ended with {status}", run.name);
                    return Ok(());
                }
                if !by_us.swap(false, Relaxed) {
                    let seconds = since.elapsed().as_secs_f64();
                    let end = format!(
                        "{} ended after {seconds:.1} s with {status}: {}",
                        run.name,
                        run.last_words()
                    );
                    eprintln!("{end}");
                    by_itself.lock().expect("no panic").push(end);
                    sleep(backoff.next_delay()).await;
                }
            }
        });
        Replica { name, port, signals, killed, ends, keeper: AsyncMutex::new(keeper) }
    }

    /// `kill -9`. Resolves when its next process answers.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.killed.store(true, Relaxed);
        self.signals.send("KILL").await?;
        let gone = async {
            while self.killed.load(Relaxed) {
                sleep(POLL).await;
            }
        };
        timeout(STOP_PATIENCE, gone).await.context("it survives kill -9")?;
        let answers = self.answers("/health/live");
        timeout(READY_PATIENCE, answers).await.context("it does not come back within 60 s")
    }

    /// Stops it where it stands, for so long.
    pub async fn stop(&self, lasts: Duration) -> anyhow::Result<()> {
        self.signals.send("STOP").await?;
        sleep(lasts).await;
        self.signals.send("CONT").await?;
        Ok(())
    }

    async fn answers(&self, path: &str) {
        while !self.try_answer(path).await {
            sleep(POLL).await;
        }
    }

    async fn try_answer(&self, path: &str) -> bool {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
        let Ok(client) = client else { return false };
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// SIGTERM; says so when it does not end in good order.
    async fn end(&self) -> Option<String> {
        self.signals.send("TERM").await.ok();
        let mut keeper = self.keeper.lock().await;
        match timeout(STOP_PATIENCE, &mut *keeper).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                keeper.abort();
                Some(format!("{} does not end within 30 s", self.name))
            }
        }
    }
}
