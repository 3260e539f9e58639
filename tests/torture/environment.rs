//! The environment: five processes of the release binary, PostgreSQL and RabbitMQ, with a fault proxy
//! between each pair that communicates.
//!
//! ```text
//! clients ─► auth-1      ─► PostgreSQL, RabbitMQ
//!         ─► catalog-1,2 ─► PostgreSQL, RabbitMQ, auth-1
//!         ─► order-1,2   ─► PostgreSQL, RabbitMQ, auth-1
//! ```

mod replica;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use shop_messaging::topology;
use shop_supervisor::Node;
use shop_supervisor::embedded::Postgres;
use shop_tests::fault_proxy::FaultProxy;
use shop_tests::{PASSWORD, SECRET, free_port, variable};
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::faults::{Target, Targets};
use replica::{Replica, Run};
use servers::Servers;

/// The node of each process.
const REPLICAS: [Node; 5] = [Node::Auth, Node::Catalog, Node::Catalog, Node::Order, Node::Order];
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Everything that a run starts.
#[derive(Debug)]
pub struct Environment {
    pub servers: Servers,
    pub replicas: Vec<Replica>,
    pub proxies: Vec<FaultProxy>,
    /// The proxies between the clients and each process.
    client_urls: Vec<(Node, String)>,
    binary: PathBuf,
    /// The configuration of a process that connects to the servers directly.
    direct: Vec<(String, String)>,
}

impl Environment {
    /// Starts everything. The processes log to files in `logs`.
    pub async fn start(binary: PathBuf, logs: &Path) -> anyhow::Result<Environment> {
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let servers = Servers::start().await?;
        let ports = REPLICAS.map(|_| free_port());
        let (mut replicas, mut proxies, mut client_urls) = (vec![], vec![], vec![]);
        for (index, node) in REPLICAS.into_iter().enumerate() {
            let number = REPLICAS[..=index].iter().filter(|other| **other == node).count();
            let name = format!("{}-{number}", node.name());
            let mut open_proxy = async |from: &str, to: &str, port: u16| {
                let proxy = FaultProxy::open(format!("{from} to {to}"), port).await?;
                let port = proxy.port();
                proxies.push(proxy);
                anyhow::Ok(port)
            };
            let database = open_proxy(&name, "PostgreSQL", servers.database_port).await?;
            let broker = open_proxy(&name, "RabbitMQ", servers.broker_port).await?;
            let mut variables = variables(&[node], database, broker);
            variables.push((variable(node, "HTTP__PORT"), ports[index].to_string()));
            if node != Node::Auth {
                let auth = open_proxy(&name, "auth-1", ports[0]).await?;
                variables.push((variable(node, "AUTH_URL"), format!("http://127.0.0.1:{auth}")));
            }
            let port = open_proxy("clients", &name, ports[index]).await?;
            client_urls.push((node, format!("http://127.0.0.1:{port}")));
            let run = Run { name, node, binary: binary.clone(), variables, logs: logs.to_owned() };
            replicas.push(Replica::start(run, ports[index]));
        }
        let direct = variables(&Node::ALL, servers.database_port, servers.broker_port);
        let environment = Environment { servers, replicas, proxies, client_urls, binary, direct };
        environment.until_ready().await?;
        Ok(environment)
    }

    /// The numbers of targets for faults.
    pub fn targets() -> Targets {
        let clients = REPLICAS.len();
        let to_auth = REPLICAS.iter().filter(|node| **node != Node::Auth).count();
        Targets { replicas: REPLICAS.len(), proxies: 2 * REPLICAS.len() + to_auth + clients }
    }

    /// The name of a target in messages.
    pub fn name(&self, target: Target) -> String {
        match target {
            Target::Replica(index) => self.replicas[index].name().to_owned(),
            Target::Broker => "RabbitMQ".to_owned(),
            Target::Postmaster => "PostgreSQL".to_owned(),
            Target::Backend(_) => "a backend of PostgreSQL".to_owned(),
            Target::Proxy(index) => self.proxies[index].name().to_owned(),
        }
    }

    /// The URLs of a node's replicas for clients.
    pub fn client_urls(&self, node: Node) -> Vec<String> {
        let url = |(other, url): &(Node, String)| (*other == node).then(|| url.clone());
        self.client_urls.iter().filter_map(url).collect()
    }

    /// Waits until every process is ready.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        for replica in &self.replicas {
            let ready = timeout(READY_TIMEOUT, replica.until_ok("/health/ready")).await;
            ready.with_context(|| format!("{} is not ready after 60 s", replica.name()))?;
        }
        Ok(())
    }

    /// A connection of the test's own to a node's database, without a proxy.
    pub async fn database(&self, node: Node) -> anyhow::Result<PgConnection> {
        self.servers.connect(&format!("{}_db", node.name())).await
    }

    /// Runs `shop verify`, which connects to the databases directly.
    pub async fn verify(&self) -> anyhow::Result<Verification> {
        let mut verify = tokio::process::Command::new(&self.binary);
        verify.arg("verify").env_clear().envs(self.direct.iter().cloned()).current_dir("/");
        verify.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(READY_TIMEOUT, verify.output()).await;
        let output = output.context("shop verify does not end")??;
        Ok(match output.status.code() {
            Some(0) => Verification::Balanced,
            _ => {
                let text = [output.stdout, output.stderr].concat();
                Verification::Differs(String::from_utf8_lossy(&text).into_owned())
            }
        })
    }

    /// Stops all processes gracefully; returns the failures.
    pub async fn stop(&self) -> Vec<String> {
        let stopped = self.replicas.iter().map(Replica::stop);
        futures::future::join_all(stopped).await.into_iter().flatten().collect()
    }

    /// The unexpected exits of all processes.
    pub fn unexpected_exits(&self) -> Vec<String> {
        self.replicas.iter().flat_map(Replica::unexpected_exits).collect()
    }
}

/// The result of `shop verify`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verification {
    Balanced,
    /// With its output.
    Differs(String),
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
        ("SHOP__JWT__ACCESS_TOKEN_EXPIRE_MINUTES", "1"), // so that clients must log in again
        ("SHOP__AUTH__BCRYPT_COST", "4"),
        ("SHOP__AUTH__ADMIN__PASSWORD", PASSWORD),
        ("SHOP__RABBITMQ__PORT", &broker.to_string()),
    ] {
        set(key.to_owned(), value.to_owned());
    }
    for node in nodes {
        set(variable(*node, "DATABASE__PORT"), database.to_string());
        set(variable(*node, "DATABASE__USER"), Postgres::USER.to_owned());
    }
    variables
}

/// The names of RabbitMQ's dead-letter queues.
pub fn dead_letter_queues() -> impl Iterator<Item = String> {
    topology::QUEUES.iter().map(|queue| topology::dead(queue.name))
}
