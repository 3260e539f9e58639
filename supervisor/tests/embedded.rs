//! The embedded PostgreSQL and the data directory, on real clusters.

#![expect(clippy::unwrap_used, reason = "a test panics when it cannot continue")]

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use secrecy::ExposeSecret;
use shop_supervisor::embedded::{DataDirectory, Options, Postgres};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor};

/// Environment variable that makes this test program run the cluster that it names.
const HOLD: &str = "SHOP_TEST_HOLD";

#[tokio::test]
async fn data_survives_a_restart() {
    let directory = Folder::new("second-start");
    let postgres = start(&directory.cluster()).await;
    connect(&postgres).await.execute("create table stored (word text)").await.unwrap();
    postgres.stop().await;
    let postgres = start(&directory.cluster()).await;
    connect(&postgres).await.execute("insert into stored values ('слово')").await.unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn a_durable_cluster_syncs_each_commit() {
    let directory = Folder::new("durable");
    let postgres =
        Postgres::start(&directory.cluster(), Options { durable: true, ..test_options() })
            .await
            .unwrap();
    let mut connection = connect(&postgres).await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("select setting from pg_settings where name = $1")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(value, "on", "{setting}");
    }
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_shop_on_the_same_data_is_refused() {
    let directory = Folder::new("second-shop");
    let postgres = start(&directory.cluster()).await;
    let refusal = Postgres::start(&directory.cluster(), test_options()).await.unwrap_err();
    assert!(refusal.to_string().starts_with("another shop is running"), "{refusal:#}");
    connect(&postgres).await.execute("select 1").await.unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn it_ends_with_a_killed_shop_and_the_next_shop_goes_on() {
    let directory = Folder::new("killed-shop");
    let mut shop = hold(&directory.cluster());
    let server = server_of(&directory.cluster());
    shop.kill().unwrap();
    shop.wait().unwrap();
    let postgres = start(&directory.cluster()).await; // at once: it waits for the other's end
    assert!(!kill("0", server), "the killed shop's server outlived it");
    postgres.stop().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_shop() {
    let directory = Folder::new("left-alone");
    let mut shop = hold(&directory.cluster());
    shop.kill().unwrap();
    shop.wait().unwrap();
    eventually("all processes ended", async || processes_on(&directory.0).is_empty()).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_stopped_shop() {
    let directory = Folder::new("stopped-shop");
    let postgres = start(&directory.cluster()).await;
    assert!(!processes_on(&directory.0).is_empty());
    postgres.stop().await;
    eventually("all processes ended", async || processes_on(&directory.0).is_empty()).await;
}

#[tokio::test]
async fn a_server_that_exits_by_itself_is_detected() {
    let directory = Folder::new("ends-itself");
    let mut postgres = start(&directory.cluster()).await;
    let server = server_of(&directory.cluster());
    assert!(kill("KILL", server));
    tokio::time::timeout(Duration::from_secs(20), postgres.exited()).await.unwrap();
    postgres.stop().await;
    start(&directory.cluster()).await.stop().await; // crash recovery
}

#[tokio::test]
async fn a_half_created_cluster_is_created_again() {
    let directory = Folder::new("half-made");
    fs::create_dir(directory.0.join("postgres.tmp")).unwrap();
    fs::write(directory.0.join("postgres.tmp/PG_VERSION"), "1").unwrap();
    start(&directory.cluster()).await.stop().await;
    assert!(!directory.0.join("postgres.tmp").exists());
}

#[tokio::test]
async fn data_of_an_unknown_version_is_refused() {
    let directory = Folder::new("other-version");
    fs::create_dir(directory.cluster()).unwrap();
    fs::write(directory.cluster().join("PG_VERSION"), "9999\n").unwrap();
    let refusal = Postgres::start(&directory.cluster(), test_options()).await.unwrap_err();
    assert!(refusal.to_string().contains("written by PostgreSQL 9999"), "{refusal:#}");
}

#[tokio::test]
async fn a_folder_without_programs_is_refused() {
    let directory = Folder::new("no-programs");
    let options = Options { binaries: Some(directory.0.clone()), ..test_options() };
    let refusal = Postgres::start(&directory.cluster(), options).await.unwrap_err();
    assert!(refusal.to_string().contains("no working initdb and postgres"), "{refusal:#}");
}

#[tokio::test]
async fn a_broken_cluster_tells_why_it_does_not_start() {
    let directory = Folder::new("broken");
    start(&directory.cluster()).await.stop().await;
    fs::remove_file(directory.cluster().join("global/pg_control")).unwrap();
    let refusal = Postgres::start(&directory.cluster(), test_options()).await.unwrap_err();
    assert!(refusal.to_string().contains("pg_control"), "{refusal:#}");
}

#[tokio::test]
async fn a_long_path_has_its_socket_elsewhere() {
    let directory = Folder::new("long-path");
    let cluster = directory.0.join("ещё одна длинная папка".repeat(4)).join("postgres");
    fs::create_dir(cluster.parent().unwrap()).unwrap();
    let postgres = start(&cluster).await;
    let sockets = postgres.socket_directory().to_owned();
    assert_ne!(sockets, cluster);
    connect(&postgres).await.execute("select 1").await.unwrap();
    postgres.stop().await;
    assert!(!sockets.exists());
}

#[tokio::test]
async fn tests_can_reach_it_by_host_and_port() {
    let directory = Folder::new("port");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = Options { port: Some(port), ..test_options() };
    let postgres = Postgres::start(&directory.cluster(), options).await.unwrap();
    connect(&postgres).await.execute("select 1").await.unwrap();
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(Postgres::USER)
        .database("postgres")
        .connect()
        .await
        .unwrap();
    postgres.stop().await;
}

#[test]
fn the_secret_is_generated_once_and_readable_by_its_owner_only() {
    let folder = Folder::new("secret");
    let directory = DataDirectory::choose(&folder.0.join("data")).unwrap();
    let secret = directory.secret().unwrap();
    assert!(secret.expose_secret().len() >= 32);
    assert_eq!(directory.secret().unwrap().expose_secret(), secret.expose_secret());
    let file = fs::metadata(directory.path().join("jwt_secret")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert!(!directory.is_fallback());
}

#[test]
fn a_truncated_secret_is_refused() {
    let folder = Folder::new("short-secret");
    let directory = DataDirectory::choose(&folder.0).unwrap();
    fs::write(directory.path().join("jwt_secret"), "half").unwrap();
    assert!(directory.secret().unwrap_err().to_string().contains("fewer than 32 bytes"));
}

/// Not a test, but the process that other tests kill: runs a cluster until it is killed.
#[tokio::test]
async fn hold_a_cluster() {
    if let Some(folder) = std::env::var_os(HOLD) {
        let mut postgres = start(Path::new(&folder)).await;
        println!("\nholding");
        postgres.exited().await;
    }
}

fn hold(cluster: &Path) -> Child {
    let mut shop = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_cluster", "--nocapture"])
        .env(HOLD, cluster)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(shop.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    shop
}

fn test_options() -> Options {
    let binaries = std::env::var_os("SHOP__EMBEDDED__POSTGRES_BINARIES").map(PathBuf::from);
    Options { durable: false, binaries, ..Options::default() }
}

async fn start(cluster: &Path) -> Postgres {
    Postgres::start(cluster, test_options()).await.unwrap()
}

async fn connect(postgres: &Postgres) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(postgres.socket_directory())
        .port(postgres.port())
        .username(Postgres::USER)
        .database("postgres");
    options.connect().await.unwrap()
}

fn server_of(cluster: &Path) -> u32 {
    let status = fs::read_to_string(cluster.join("postmaster.pid")).unwrap();
    status.lines().next().unwrap().parse().unwrap()
}

/// Sends `signal`; returns whether the process exists. Signal 0 sends nothing.
fn kill(signal: &str, process: u32) -> bool {
    let command = format!("kill -s {signal} {process}");
    Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status().unwrap().success()
}

/// The processes, including shells, whose command line contains `folder`.
fn processes_on(folder: &Path) -> Vec<String> {
    let output = Command::new("ps").args(["-e", "-o", "pid=,args="]).output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines
        .lines()
        .filter(|line| line.contains(folder.to_str().unwrap()))
        .map(str::to_owned)
        .collect()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let condition = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    condition.await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
}

/// A temporary folder, removed at the end of its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("shop-embedded-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn cluster(&self) -> PathBuf {
        self.0.join("postgres")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
