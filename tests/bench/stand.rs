//! What the shop and its limits stand on: a PostgreSQL and a RabbitMQ of our own, and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amqprs::channel::QueuePurgeArguments;
use amqprs::connection::{Connection as AmqpConnection, OpenConnectionArguments};
use anyhow::{Context, ensure};
use shop_messaging::topology;
use shop_supervisor::Node;
use shop_supervisor::embedded::Postgres;
use shop_tests::postgres::PostgresServer;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{Folder, free_port};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::figures::{Run, Who};
use crate::people::People;
use crate::processes::{self, Process, Watched, usage};
use crate::seed::{self, Stock};
use crate::shop::{Layout, Shop, Variables};
use crate::wrk::Load;

/// The server process of a database connection; its parent is PostgreSQL's first one.
const BACKEND: &str = "select pg_backend_pid()";
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// All servers of a run.
#[derive(Debug)]
pub struct Stand {
    cluster: PostgresServer,
    broker: RabbitMq,
    folder: Folder,
    binary: PathBuf,
    pub people: People,
    postgres: u32,
    rabbitmq: u32,
    databases: AtomicU32,
}

impl Stand {
    /// Starts the servers, and this shop once, so that it makes its databases and queues.
    pub async fn build(binary: PathBuf) -> anyhow::Result<Stand> {
        let (cluster, broker) = tokio::join!(PostgresServer::durable(), RabbitMq::start());
        let (cluster, broker) = (cluster?, broker?);
        let rabbitmq = processes::listener(broker.port());
        let rabbitmq = rabbitmq.context("no process of RabbitMQ is found")?;
        let mut stand = Stand {
            cluster,
            broker,
            folder: Folder::new("shop-bench")?,
            binary,
            people: People::make_up()?,
            postgres: 0,
            rabbitmq,
            databases: AtomicU32::new(0),
        };
        let mut connection = stand.connect("postgres").await?;
        let backend: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut connection).await?;
        let postmaster = processes::parent(u32::try_from(backend)?);
        stand.postgres = postmaster.context("no process of PostgreSQL is found")?;

        let shop = stand.run(Layout::ThreeProcesses, &[]).await?;
        seed::copied(&stand).await?;
        shop.stop().await?;
        stand.people.sign_up(&mut stand.database(Node::Auth).await?).await?;
        for node in [Node::Catalog, Node::Order] {
            stand.people.introduce(&mut stand.database(node).await?).await?;
        }
        Ok(stand)
    }

    /// Runs the shop on nothing but this stock.
    pub async fn shop_with(&self, stock: Stock) -> anyhow::Result<Shop> {
        self.stocked(stock).await?;
        self.run(Layout::ThreeProcesses, &[]).await
    }

    /// Leaves this stock and nothing else in databases and queues. Nothing of the shop may run.
    pub async fn stocked(&self, stock: Stock) -> anyhow::Result<()> {
        self.purge().await.context("cannot empty the queues")?;
        seed::restock(self, stock).await.context("cannot fill the databases")
    }

    /// Runs the shop on what there is.
    pub async fn run(&self, layout: Layout, more: &Variables) -> anyhow::Result<Shop> {
        let servers = (self.database_port(), self.broker.port());
        Shop::start(&self.binary, self.folder.path(), layout, servers, more).await
    }

    /// Runs a limit until it is done. Says what it printed.
    pub async fn limit(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut limit = Command::new(std::env::current_exe()?);
        let limit = limit.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let complaint = String::from_utf8_lossy(&limit.stderr);
        ensure!(limit.status.success(), "{arguments:?} could not be measured: {complaint}");
        Ok(String::from_utf8(limit.stdout)?.trim().to_owned())
    }

    /// A limit that serves at a port, by `arguments` that the port is added to; and where it is.
    pub async fn server(&self, arguments: &[&str]) -> anyhow::Result<(Process, String)> {
        let port = free_port();
        let mut arguments = arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        arguments.extend(["--port".to_owned(), port.to_string()]);
        let program = std::env::current_exe()?;
        let folder = self.folder.path();
        let mut process = Process::start("limit", &program, &arguments, &[], folder).await?;
        process.until(processes::listens(port)).await?;
        Ok((process, format!("http://127.0.0.1:{port}")))
    }

    /// Loads a server and watches what it costs all of these, and the servers behind them.
    pub async fn load(&self, who: Who, watched: &Watched, load: &Load) -> anyhow::Result<Run> {
        let watched = self.watched(watched);
        let before = usage(&watched);
        let said = load.run(self.folder.path().to_owned()).await?;
        let after = usage(&watched);
        Ok(Run::of_wrk(who, load, &said).with_usage(said.requests, &before, &after))
    }

    /// With the servers.
    pub fn watched(&self, watched: &Watched) -> Watched {
        let servers =
            [("postgres".to_owned(), self.postgres), ("rabbitmq".to_owned(), self.rabbitmq)];
        watched.iter().cloned().chain(servers).collect()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn database_port(&self) -> u16 {
        self.cluster.server().port()
    }

    pub fn broker_port(&self) -> u16 {
        self.broker.port()
    }

    /// A connection of our own to a node's database.
    pub async fn database(&self, node: Node) -> anyhow::Result<PgConnection> {
        self.connect(&database_name(node)).await
    }

    /// Makes an empty database. Says its name.
    pub async fn new_database(&self) -> anyhow::Result<String> {
        let name = format!("limit_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = AssertSqlSafe(format!("create database {name}"));
        sqlx::raw_sql(create).execute(&mut self.connect("postgres").await?).await?;
        Ok(name)
    }

    pub async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        connect(self.database_port(), database).await
    }

    /// What stands behind the figures.
    pub async fn versions(&self) -> anyhow::Result<BTreeMap<&'static str, String>> {
        let mut connection = self.connect("postgres").await?;
        let postgres: String =
            sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        let postgres = postgres.split(' ').next().unwrap_or_default().to_owned();
        let rabbitmq = crate::machine::version_of_rabbitmq(self.broker_port()).await?;
        let wrk = crate::programs::version_of_wrk()?;
        Ok(BTreeMap::from([("PostgreSQL", postgres), ("RabbitMQ", rabbitmq), ("wrk", wrk)]))
    }

    async fn purge(&self) -> anyhow::Result<()> {
        let arguments =
            OpenConnectionArguments::new("127.0.0.1", self.broker_port(), "guest", "guest");
        let connection = AmqpConnection::open(&arguments).await?;
        let channel = connection.open_channel(None).await?;
        for queue in topology::QUEUES.iter() {
            channel.queue_purge(QueuePurgeArguments::new(queue.name)).await?;
        }
        channel.close().await?;
        connection.close().await?;
        Ok(())
    }
}

/// The database of a node.
pub fn database_name(node: Node) -> String {
    format!("{}_db", node.name())
}

/// A connection to a database at a port of 127.0.0.1.
pub async fn connect(port: u16, database: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(Postgres::USER)
        .database(database);
    let connecting = tokio::time::timeout(CONNECT_PATIENCE, PgConnection::connect_with(&options));
    Ok(connecting.await.context("PostgreSQL does not answer within 10 s")??)
}

/// A connection on which nothing is done twice when it breaks: for who counts milliseconds.
pub async fn raw(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
