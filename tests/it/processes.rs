//! The release binary as operators run it: processes of their own, configured by environment variables alone.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::{Folder, free_port};
use sqlx::PgConnection;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::flow;
use crate::shop::{Client, Over, PASSWORD, Settings, Urls, eventually, same};

/// The release binary, built when first asked for: nothing is done where it is up to date.
async fn binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || shop_tests::release_binary().await.expect("the release binary");
    BINARY.get_or_init(build).await
}

/// `shop` in a process of its own. Killed when dropped.
pub struct Process {
    child: Child,
    folder: PathBuf,
    name: String,
}

impl Process {
    pub async fn start(
        folder: &Folder,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Process {
        let folder = folder.path().to_owned();
        let name = if arguments.is_empty() { "all".to_owned() } else { arguments.join("-") };
        let file = |end: &str| File::create(folder.join(format!("{name}.{end}"))).unwrap();
        let mut command = Command::new(binary().await);
        command.args(arguments).current_dir(&folder).env_clear().envs(variables.iter().cloned());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(binaries) = std::env::var_os("SHOP__EMBEDDED__POSTGRES_BINARIES") {
            command.env("SHOP__EMBEDDED__POSTGRES_BINARIES", binaries);
        }
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let child = command.spawn().expect("the binary runs");
        Process { child, folder, name }
    }

    /// What it wrote: "out" or "err".
    pub fn read(&self, end: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{}.{end}", self.name))).unwrap_or_default()
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and what it ends with.
    pub async fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        self.ended().await
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually(|| {
            let ended = self.child.try_wait().unwrap();
            async move { ended.ok_or("it still runs".to_owned()) }
        })
        .await
    }

    /// Memory in use, in MB.
    pub fn megabytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Three nodes on ports that stay theirs, to be started as processes.
pub async fn on_fixed_ports(over: Over) -> (Settings, Urls) {
    let mut settings = Settings::new(over).await;
    let ports = Node::ALL.map(|node| (node, free_port()));
    for (node, port) in ports {
        settings
            .set(&format!("SHOP__{}__HTTP__PORT", node.name().to_uppercase()), &port.to_string());
    }
    let port = |node| ports.iter().find(|(other, _)| *other == node).unwrap().1;
    (settings, Urls::new(|node| format!("http://127.0.0.1:{}", port(node))))
}

pub async fn ready(client: &Client, node: Node) {
    eventually(|| async {
        let request = client.request(reqwest::Method::GET, node, "/health/ready");
        match request.send().await {
            Ok(answer) => same(answer.status().as_u16(), 200).map(drop),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn three_processes_pass_the_same_flow_and_end_in_good_order() {
    let folder = Folder::new("shop-three").unwrap();
    let (settings, urls) = on_fixed_ports(Over::RabbitMq).await;
    let client = Client::new(urls);
    let mut processes = vec![];
    for node in Node::ALL {
        processes.push(Process::start(&folder, &["run", node.name()], &settings.variables).await);
    }
    for node in Node::ALL {
        ready(&client, node).await;
    }
    flow::buy(client).await;
    for process in processes {
        let log = process.read("err");
        assert!(process.stop().await.success(), "{log}");
    }
}

#[tokio::test]
async fn the_books_are_verified_and_made_anew_from_the_command_line() {
    let folder = Folder::new("shop-books").unwrap();
    let (settings, urls) = on_fixed_ports(Over::Bus).await;
    let nobody = Client::new(urls);
    let command = async |arguments: &[&str]| {
        let mut process = Process::start(&folder, arguments, &settings.variables).await;
        let code = process.ended().await.code();
        (code, process.read("out"), process.read("err"))
    };
    let (code, _, said) = command(&["verify"]).await;
    assert_eq!(code, Some(2), "there is no database yet: {said}");
    assert!(said.starts_with("shop: the database "), "{said}");

    let shop = Process::start(&folder, &["run"], &settings.variables).await;
    ready(&nobody, Node::Order).await;
    flow::buy(nobody.clone()).await;
    let (code, said, _) = command(&["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("the books balance\n"), "{said}");

    let mut order = settings.database(Node::Order).await;
    let less = "update products set quantity = quantity - 1";
    sqlx::raw_sql(less).execute(&mut order).await.unwrap();
    let (code, said, _) = command(&["verify"]).await;
    assert_eq!(code, Some(1), "{said}");
    let line = "\nproduct 1: the order node shows 4 left, its movements add up to 5\n";
    assert!(said.contains(line) && said.ends_with("1 difference\n"), "{said}");

    let empty = "truncate customers, products, stock_movements, orders, order_items";
    sqlx::raw_sql(empty).execute(&mut order).await.unwrap();
    let (code, said, log) = command(&["resync", "order"]).await;
    assert_eq!(code, Some(0), "{said}{log}");
    assert!(said.ends_with("order: done: 2 users, 1 products, 2 sales\n"), "{said}");
    assert_eq!(number(&mut order, "select quantity from products").await, 5);
    let (code, said, _) = command(&["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(shop.stop().await.success());
}

#[tokio::test]
async fn kill_9_between_two_requests_loses_nothing() {
    let folder = Folder::new("shop-killed").unwrap();
    let (settings, urls) = on_fixed_ports(Over::RabbitMq).await;
    let nobody = Client::new(urls);
    let start = async |node: Node| {
        Process::start(&folder, &["run", node.name()], &settings.variables).await
    };
    let mut processes =
        [start(Node::Auth).await, start(Node::Catalog).await, start(Node::Order).await];
    for node in Node::ALL {
        ready(&nobody, node).await;
    }
    let admin = nobody.sign_in("admin").await;
    let teapot = admin.product(1990, 1000).await;
    let mut orders = vec![];
    for round in 0..2 {
        for (index, node) in Node::ALL.into_iter().enumerate() {
            let anna = nobody.sign_up(&format!("anna-{round}-{index}")).await;
            orders.push(anna.order(&[(&teapot, 3)]).await.expect(201));
            let item = json!({"order_item_id": orders[0]["items"][0]["id"], "quantity": 4 + round});
            let path = format!("/update_order/{}", orders[0]["id"]);
            admin.put(Node::Order, &path, item).await.expect(200);
            processes[index].kill();
            processes[index] = start(node).await;
            ready(&nobody, node).await;
        }
    }
    // Every acknowledged order is there, and the copies agree.
    for order in &orders {
        admin.get(Node::Order, &format!("/order/{}", order["id"])).await.expect(200);
    }
    let sold = 3 * orders.len() as i64 + 2;
    let mut order_db = settings.database(Node::Order).await;
    let left = "select quantity from products";
    assert_eq!(number(&mut order_db, left).await, 1000 - sold);
    eventually(|| async { same(admin.left(&teapot).await, 1000 - sold) }).await;
    let users = rows(&mut settings.database(Node::Auth).await, "users").await;
    assert_eq!(users.len(), 1 + orders.len());
    for node in [Node::Catalog, Node::Order] {
        let mut database = settings.database(node).await;
        assert_eq!(rows(&mut database, "customers").await, users);
    }
    for node in Node::ALL {
        let mut database = settings.database(node).await;
        eventually(async || same(number(&mut database, "select count(*) from outbox").await, 0))
            .await;
    }
}

async fn number(database: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

/// Users as a node knows them.
async fn rows(database: &mut PgConnection, table: &str) -> Vec<(String, String, i64)> {
    let query = format!("select username, email, version from {table} order by id");
    sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(database).await.unwrap()
}

#[tokio::test]
async fn three_nodes_in_one_process_are_ready_soon_and_small() {
    let folder = Folder::new("shop-small").unwrap();
    let (mut settings, urls) = on_fixed_ports(Over::RabbitMq).await;
    settings.set("SHOP__LOG__FORMAT", "json");
    settings.set("SHOP__AUTH__BCRYPT_COST", "12");
    let client = Client::new(urls);
    let mut took = vec![];
    binary().await;
    // The first start makes databases and queues. Of those after it the best counts: the machine is busy with other tests.
    for _ in 0..4 {
        let since = Instant::now();
        let process = Process::start(&folder, &["run"], &settings.variables).await;
        for node in Node::ALL {
            ready(&client, node).await;
        }
        took.push(since.elapsed());
        let megabytes = process.megabytes();
        println!("ready after {:?}, {megabytes} MB", took[took.len() - 1]);
        assert!(megabytes < 60, "three idle nodes use {megabytes} MB");
        let log = process.read("err");
        for line in log.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        }
        assert!(process.stop().await.success(), "{log}");
    }
    assert!(took[1..].iter().min() < Some(&Duration::from_secs(1)), "{took:?}");
}

#[tokio::test]
async fn the_embedded_shop_keeps_its_data_and_shares_it_with_nobody() {
    let folder = Folder::new("shop-embedded").unwrap();
    let (settings, urls) = on_fixed_ports(Over::Bus).await;
    let ports = |(key, _): &&(String, String)| key.ends_with("HTTP__PORT");
    let variables: Vec<_> = settings.variables.iter().filter(ports).cloned().collect();
    let nobody = Client::new(urls);

    let mut shop = Process::start(&folder, &[], &variables).await;
    ready(&nobody, Node::Order).await;
    let banner = eventually(|| async {
        Some(shop.read("out")).filter(|out| out.contains("broker ")).ok_or("no banner".into())
    });
    let banner = banner.await;
    let password = banner.split("admin, password ").nth(1).and_then(|rest| rest.split(' ').next());
    let login =
        json!({"username": "admin", "password": password.expect("shown at the first start")});
    let login = nobody.post(Node::Auth, "/api/v1/auth/login", login).await.expect(200);
    let admin = nobody.with_token(login["access_token"].as_str().unwrap());
    let teapot = admin.product(1990, 10).await;

    // Another shop on the same data is refused, and says why.
    let (other, _) = on_fixed_ports(Over::Bus).await;
    let other: Vec<_> = other.variables.iter().filter(ports).cloned().collect();
    let mut second = Process::start(&folder, &["run"], &other).await;
    assert!(!second.ended().await.success());
    assert!(
        second.read("err").contains("another shop is running on the data in"),
        "{}",
        second.read("err")
    );

    // An administrator can be made while it runs.
    let create = ["admin", "create", "--username", "olga", "--email", "olga@example.com"];
    let mut command = Command::new(binary().await);
    command.args(create).current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut create = command.spawn().unwrap();
    writeln!(create.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(create.wait_with_output().unwrap().status.success());
    assert_eq!(nobody.sign_in("olga").await.user["role"], "ADMIN");

    let mut verify = Process::start(&folder, &["verify"], &variables).await;
    assert_eq!(verify.ended().await.code(), Some(0), "{}", verify.read("err"));
    assert!(verify.read("out").contains("the books balance"), "{}", verify.read("out"));

    shop.kill();
    let shop = Process::start(&folder, &[], &variables).await;
    ready(&nobody, Node::Order).await;
    assert_eq!(admin.left(&teapot).await, 10, "the data and the token's key are still there");
    assert!(!shop.read("out").contains("password"), "the password is shown once");
    assert!(shop.stop().await.success());
}

#[tokio::test]
async fn dead_letters_are_dealt_with_from_the_command_line() {
    let folder = Folder::new("shop-letters").unwrap();
    let (settings, urls) = on_fixed_ports(Over::RabbitMq).await;
    let process = Process::start(&folder, &["run"], &settings.variables).await;
    ready(&Client::new(urls), Node::Order).await;
    assert!(process.stop().await.success());
    // What the node heard and could not apply, before it ended.
    let id = Uuid::new_v4();
    let letter =
        "insert into dead_letters values ($1, 'product.created', 'product.created', null, 1,
                  'the body cannot be read', now(), 1, '{}', '{}', '{')";
    let mut database = settings.database(Node::Order).await;
    sqlx::query(letter).bind(id).execute(&mut database).await.unwrap();
    let (id, unknown) = (id.to_string(), Uuid::new_v4().to_string());
    for (command, code, said) in [
        (vec!["list"], 0, "the body cannot be read"),
        (vec!["list", "--node", "auth"], 0, "there are no dead letters"),
        (vec!["redrive", &id], 1, "shop: it still cannot be applied: the body cannot be read: EOF"),
        (vec!["drop", &unknown], 1, "shop: there is no dead letter"),
        (vec!["drop", &id], 0, "the dead letter is dropped"),
        (vec!["redrive", &id], 1, "shop: there is no dead letter"),
        (vec!["list"], 0, "there are no dead letters"),
    ] {
        let arguments = [vec!["dead-letters"], command].concat();
        let mut process = Process::start(&folder, &arguments, &settings.variables).await;
        let ended = process.ended().await;
        let text = process.read(if code == 0 { "out" } else { "err" });
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {text}{}", process.read("err"));
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn what_keeps_dying_ends_the_process_with_a_failure() {
    let folder = Folder::new("shop-dying").unwrap();
    let (mut settings, urls) = on_fixed_ports(Over::Bus).await;
    for (key, value) in [
        ("SHOP__EMBEDDED__BROKER", "true"),
        ("SHOP__SUPERVISION__RESTART_BACKOFF_MIN_MS", "1"),
        ("SHOP__SUPERVISION__RESTART_BACKOFF_MAX_MS", "2"),
        ("SHOP__SUPERVISION__MAX_RESTARTS", "2"),
        ("SHOP__SUPERVISION__MAX_BRANCH_RESTARTS", "2"),
    ] {
        settings.set(key, value);
    }
    let client = Client::new(urls);
    let mut process = Process::start(&folder, &[], &settings.variables).await;
    for node in Node::ALL {
        ready(&client, node).await;
    }
    let admin = client.sign_in("admin").await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut database = settings.database(Node::Order).await;
    sqlx::raw_sql("alter table order_items drop column product_name")
        .execute(&mut database)
        .await
        .unwrap();
    let items = json!([{"product_id": teapot["id"], "quantity": 1}]);
    let order = json!({"user_id": admin.id(), "items": items});
    let ordered = async || {
        let request = admin.request(reqwest::Method::POST, Node::Order, "/order");
        drop(request.json(&order).send().await);
        process.child.try_wait().unwrap().ok_or("it still runs".to_owned())
    };
    let ended = eventually(ordered).await;
    let log = process.read("err");
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("supervisor gives up on a child"), "{log}");
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_said_in_one_line() {
    let folder = Folder::new("shop-refused").unwrap();
    let (settings, _) = on_fixed_ports(Over::RabbitMq).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = TcpListener::bind(taken).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases: [(&str, &str, &[&str]); 8] = [
        ("SHOP__AUTH__HTTP__PORT", &port, &["is taken", "auth.http.port"]),
        ("SHOP__AUTH__HTTP__PROT", "1", &["SHOP__AUTH__HTTP__PROT", "there are host, port"]),
        (
            "SHOP__ORDER__DATABASE__PORT",
            "9",
            &["the database", "127.0.0.1:9", "refused", "order.database"],
        ),
        ("SHOP__ORDER__DATABASE__USER", "nobody_at_all", &["nobody_at_all", "order.database"]),
        ("SHOP__JWT__SECRET_KEY", "short", &["jwt.secret_key", "at least 32 bytes"]),
        ("SHOP__JWT__ALGORITHM", "none", &["jwt.algorithm", "HS256"]),
        ("SHOP__AUTH__ADMIN__PASSWORD", "short", &["auth.admin.password", "at least 8 characters"]),
        ("SHOP__LOG__FORMAT", "xml", &["log.format", "text", "json"]),
    ];
    for (variable, value, words) in cases {
        let mut settings = settings.clone();
        settings.set(variable, value);
        let mut process = Process::start(&folder, &["run"], &settings.variables).await;
        assert_eq!(process.ended().await.code(), Some(1), "{variable}={value}");
        let said = process.read("err");
        let lines: Vec<_> = said.lines().filter(|line| line.starts_with("shop: ")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(words.iter().all(|word| lines[0].contains(word)), "{variable}={value}: {said}");
    }
    let mut settings = settings.clone();
    settings.set("SHOP__EMBEDDED__BROKER", "true");
    let mut process = Process::start(&folder, &["run", "auth"], &settings.variables).await;
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.read("err").contains("set embedded.broker = false"), "{}", process.read("err"));
}
