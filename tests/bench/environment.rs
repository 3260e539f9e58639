//! The environment of a run: a PostgreSQL and a RabbitMQ that only the benchmark uses, and their
//! data.

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

use crate::figures::{Run, Subject};
use crate::processes::{self, Process, ProcessTrees, usage};
use crate::seed::{self, Stock};
use crate::shop::{Layout, Shop, Variables};
use crate::users::Users;
use crate::wrk::Load;

/// The process of a database connection. Its parent is the postmaster.
const BACKEND_PID: &str = "select pg_backend_pid()";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The servers of a run, and the users in their databases.
#[derive(Debug)]
pub struct Environment {
    cluster: PostgresServer,
    broker: RabbitMq,
    folder: Folder,
    binary: PathBuf,
    pub users: Users,
    /// Root of PostgreSQL's process tree.
    postgres: u32,
    /// Root of RabbitMQ's process tree.
    rabbitmq: u32,
    /// Number of databases created by [`Environment::new_database`].
    databases: AtomicU32,
}

impl Environment {
    /// Starts the servers. Runs the shop once, so that it creates its databases and queues.
    pub async fn start(binary: PathBuf) -> anyhow::Result<Environment> {
        let (cluster, broker) = tokio::join!(PostgresServer::durable(), RabbitMq::start());
        let (cluster, broker) = (cluster?, broker?);
        let rabbitmq = processes::listener(broker.port());
        let rabbitmq = rabbitmq.context("RabbitMQ's process is not found")?;
        let mut environment = Environment {
            cluster,
            broker,
            folder: Folder::new("shop-bench")?,
            binary,
            users: Users::generate()?,
            postgres: 0,
            rabbitmq,
            databases: AtomicU32::new(0),
        };
        let mut connection = environment.connect("postgres").await?;
        let backend: i32 = sqlx::query_scalar(BACKEND_PID).fetch_one(&mut connection).await?;
        let postmaster = processes::parent(u32::try_from(backend)?);
        environment.postgres = postmaster.context("PostgreSQL's process is not found")?;

        let shop = environment.start_shop(Layout::ThreeProcesses, &[]).await?;
        seed::wait_until_replicated(&environment).await?;
        shop.stop().await?;
        environment.users.insert_users(&mut environment.database(Node::Auth).await?).await?;
        for node in [Node::Catalog, Node::Order] {
            environment.users.insert_customers(&mut environment.database(node).await?).await?;
        }
        Ok(environment)
    }

    /// Resets the data to this stock and starts the shop.
    pub async fn start_shop_with(&self, stock: Stock) -> anyhow::Result<Shop> {
        self.reset(stock).await?;
        self.start_shop(Layout::ThreeProcesses, &[]).await
    }

    /// Empties the queues and resets the databases to this stock. The shop must not be running.
    pub async fn reset(&self, stock: Stock) -> anyhow::Result<()> {
        self.purge().await.context("cannot empty the queues")?;
        seed::insert_stock(self, stock).await.context("cannot fill the databases")
    }

    /// Starts the shop on the existing data, with `more` environment variables.
    pub async fn start_shop(&self, layout: Layout, more: &Variables) -> anyhow::Result<Shop> {
        let servers = (self.database_port(), self.broker.port());
        Shop::start(&self.binary, self.folder.path(), layout, servers, more).await
    }

    /// Runs a baseline program to its end and returns its output.
    pub async fn run_baseline(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?} failed: {stderr}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts a baseline server with `arguments` and a free port. Returns its process and its URL.
    pub async fn start_baseline(&self, arguments: &[&str]) -> anyhow::Result<(Process, String)> {
        let port = free_port();
        let mut arguments = arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        arguments.extend(["--port".to_owned(), port.to_string()]);
        let program = std::env::current_exe()?;
        let folder = self.folder.path();
        let mut process = Process::start("baseline", &program, &arguments, &[], folder).await?;
        process.wait_until(processes::wait_for_listener(port)).await?;
        Ok((process, format!("http://127.0.0.1:{port}")))
    }

    /// Runs a load. Measures the processor time and memory of these process trees, PostgreSQL and
    /// RabbitMQ.
    pub async fn load(
        &self,
        subject: Subject,
        trees: &ProcessTrees,
        load: &Load,
    ) -> anyhow::Result<Run> {
        let trees = self.with_servers(trees);
        let before = usage(&trees);
        let report = load.run(self.folder.path().to_owned()).await?;
        let after = usage(&trees);
        Ok(Run::of_wrk(subject, load, &report).with_usage(report.requests, &before, &after))
    }

    /// Adds the process trees of PostgreSQL and RabbitMQ.
    pub fn with_servers(&self, trees: &ProcessTrees) -> ProcessTrees {
        let servers =
            [("postgres".to_owned(), self.postgres), ("rabbitmq".to_owned(), self.rabbitmq)];
        trees.iter().cloned().chain(servers).collect()
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

    /// Opens a connection to a node's database.
    pub async fn database(&self, node: Node) -> anyhow::Result<PgConnection> {
        self.connect(&database_name(node)).await
    }

    /// Creates an empty database and returns its name.
    pub async fn new_database(&self) -> anyhow::Result<String> {
        let name = format!("baseline_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = AssertSqlSafe(format!("create database {name}"));
        sqlx::raw_sql(create).execute(&mut self.connect("postgres").await?).await?;
        Ok(name)
    }

    pub async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        connect(self.database_port(), database).await
    }

    /// Versions of the servers and the load generator.
    pub async fn versions(&self) -> anyhow::Result<BTreeMap<&'static str, String>> {
        let mut connection = self.connect("postgres").await?;
        let postgres: String =
            sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        let postgres = postgres.split(' ').next().unwrap_or_default().to_owned();
        let rabbitmq = crate::machine::rabbitmq_version(self.broker_port()).await?;
        let wrk = crate::programs::wrk_version()?;
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

/// The name of a node's database.
pub fn database_name(node: Node) -> String {
    format!("{}_db", node.name())
}

/// Opens a connection to a database of the PostgreSQL at this port of 127.0.0.1.
pub async fn connect(port: u16, database: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(Postgres::USER)
        .database(database);
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options));
    Ok(connecting.await.context("PostgreSQL does not answer within 10 s")??)
}

/// Opens a TCP connection to this port of 127.0.0.1, without Nagle's algorithm.
pub async fn open_tcp(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
