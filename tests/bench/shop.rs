//! Runs the release binary of the shop: one process per node, or one process with all three nodes.

use std::path::Path;
use std::time::Duration;

use futures::future::try_join_all;
use shop_supervisor::Node;
use shop_supervisor::embedded::Postgres;
use shop_tests::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::environment::open_tcp;
use crate::processes::{Process, ProcessTrees};
use crate::users::{COST, PASSWORD, SECRET};

/// Interval between two readiness checks.
const POLL: Duration = Duration::from_millis(2);
const READINESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Environment variables.
pub type Variables = [(String, String)];

/// How nodes are divided into processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    ThreeProcesses,
    OneProcess,
}

/// A running shop. Its processes are killed when it is dropped.
#[derive(Debug)]
pub struct Shop {
    processes: Vec<Process>,
    ports: [(Node, u16); 3],
}

impl Shop {
    /// Starts the shop on free ports, with PostgreSQL at port `database` and RabbitMQ at port
    /// `broker`. Returns when all nodes are ready.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        layout: Layout,
        (database, broker): (u16, u16),
        more: &Variables,
    ) -> anyhow::Result<Shop> {
        let ports = Node::ALL.map(|node| (node, free_port()));
        let variables = [variables(ports, database, broker).as_slice(), more].concat();
        let run = |name: &'static str, node: Option<Node>| {
            let words = ["run"].into_iter().chain(node.map(|node| node.name()));
            let arguments = words.map(str::to_owned).collect::<Vec<_>>();
            let variables = &variables;
            async move { Process::start(name, binary, &arguments, variables, folder).await }
        };
        let mut processes = match layout {
            Layout::OneProcess => vec![run("shop", None).await?],
            Layout::ThreeProcesses => {
                try_join_all(Node::ALL.map(|node| run(node.name(), Some(node)))).await?
            }
        };
        for (index, process) in processes.iter_mut().enumerate() {
            let ports = ports.iter().map(|(_, port)| *port).enumerate();
            let own = ports.filter(|(node, _)| layout == Layout::OneProcess || *node == index);
            let own = own.map(|(_, port)| port).collect::<Vec<_>>();
            process
                .wait_until(async {
                    for port in own {
                        wait_until_ready(port).await;
                    }
                })
                .await?;
        }
        Ok(Shop { processes, ports })
    }

    /// The URL of a path on a node.
    pub fn url(&self, node: Node, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port(node))
    }

    fn port(&self, node: Node) -> u16 {
        let found = self.ports.iter().find(|(other, _)| *other == node);
        found.map_or(0, |(_, port)| *port)
    }

    /// The process trees of its processes.
    pub fn process_trees(&self) -> ProcessTrees {
        self.processes.iter().map(|process| (process.name.clone(), process.pid)).collect()
    }

    /// The process that runs a node.
    pub fn pid(&self, node: Node) -> u32 {
        let named = self.processes.iter().find(|process| process.name == node.name());
        named.or(self.processes.first()).map_or(0, |process| process.pid)
    }

    /// Stops the shop gracefully: committed events are relayed first.
    pub async fn stop(self) -> anyhow::Result<()> {
        try_join_all(self.processes.into_iter().map(Process::stop)).await?;
        Ok(())
    }
}

fn variables(ports: [(Node, u16); 3], database: u16, broker: u16) -> Vec<(String, String)> {
    let mut variables = vec![];
    let mut set = |key: String, value: String| variables.push((format!("SHOP__{key}"), value));
    for (key, value) in [
        ("EMBEDDED__POSTGRES", "false"),
        ("EMBEDDED__BROKER", "false"),
        ("JWT__SECRET_KEY", SECRET),
        ("JWT__ACCESS_TOKEN_EXPIRE_MINUTES", "1440"),
        ("AUTH__BCRYPT_COST", &COST.to_string()),
        ("AUTH__ADMIN__PASSWORD", PASSWORD),
        ("RABBITMQ__PORT", &broker.to_string()),
    ] {
        set(key.to_owned(), value.to_owned());
    }
    for (node, port) in ports {
        let name = node.name().to_uppercase();
        set(format!("{name}__HTTP__PORT"), port.to_string());
        set(format!("{name}__DATABASE__PORT"), database.to_string());
        set(format!("{name}__DATABASE__USER"), Postgres::USER.to_owned());
        set(format!("CLUSTER__{name}_URL"), format!("http://127.0.0.1:{port}"));
    }
    variables
}

async fn wait_until_ready(port: u16) {
    while !timeout(READINESS_TIMEOUT, is_ready(port))
        .await
        .is_ok_and(|ready| ready.unwrap_or(false))
    {
        sleep(POLL).await;
    }
}

async fn is_ready(port: u16) -> std::io::Result<bool> {
    const REQUEST: &[u8] =
        b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let mut stream = open_tcp(port).await?;
    stream.write_all(REQUEST).await?;
    let mut status_line = [0; 12];
    stream.read_exact(&mut status_line).await?;
    Ok(&status_line == b"HTTP/1.1 200")
}
