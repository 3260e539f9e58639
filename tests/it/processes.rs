//! The release binary as operators run it.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::api::{Login, Order};
use shop_tests::{
    BrokerKind, Client, Folder, PASSWORD, Process, Settings, binary, equal, eventually, free_port,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::flow;

#[tokio::test]
async fn three_processes_serve_the_whole_flow_and_shut_down_gracefully() {
    let folder = Folder::new("shop-three").unwrap();
    let (settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    let client = Client::new(urls);
    let mut processes = vec![];
    for node in Node::ALL {
        processes.push(Process::start(&folder, &["run", node.name()], &settings.variables).await);
    }
    client.until_ready().await;
    flow::buy(client).await;
    for process in processes {
        let log = process.stderr();
        assert!(process.stop().await.success(), "{log}");
    }
}

#[tokio::test]
async fn the_ledger_is_verified_and_a_node_resynced_from_the_command_line() {
    let folder = Folder::new("shop-ledger").unwrap();
    let (settings, urls) = Settings::with_fixed_ports(BrokerKind::Bus).await;
    let anonymous = Client::new(urls);
    let run =
        async |arguments: &[&str]| Process::run(&folder, arguments, &settings.variables).await;
    let (code, _, error) = run(&["verify"]).await;
    assert_eq!(code, Some(2), "there is no database yet: {error}");
    assert!(error.starts_with("shop: cannot open the database "), "{error}");

    let shop = Process::start(&folder, &["run"], &settings.variables).await;
    anonymous.until_ready().await;
    flow::buy(anonymous.clone()).await;
    let (code, output, _) = run(&["verify"]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.ends_with("no differences\n"), "{output}");

    let mut order = settings.database(Node::Order).await;
    let less = "update products set quantity = quantity - 1";
    sqlx::raw_sql(less).execute(&mut order).await.unwrap();
    let (code, output, _) = run(&["verify"]).await;
    assert_eq!(code, Some(1), "{output}");
    let line = "\nproduct 1: the order node shows 4 left, its movements add up to 5\n";
    assert!(output.contains(line) && output.ends_with("1 difference\n"), "{output}");

    let empty = "truncate customers, products, stock_movements, orders, order_items";
    sqlx::raw_sql(empty).execute(&mut order).await.unwrap();
    let (code, output, log) = run(&["resync", "order"]).await;
    assert_eq!(code, Some(0), "{output}{log}");
    assert!(output.ends_with("order: done: 2 users, 1 products, 2 sales\n"), "{output}");
    assert_eq!(number(&mut order, "select quantity from products").await, 5);
    let (code, output, _) = run(&["verify"]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(shop.stop().await.success());
}

#[tokio::test]
async fn kill_9_between_two_requests_loses_nothing() {
    let folder = Folder::new("shop-killed").unwrap();
    let (settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    let anonymous = Client::new(urls);
    let start = async |node: Node| {
        Process::start(&folder, &["run", node.name()], &settings.variables).await
    };
    let mut processes =
        [start(Node::Auth).await, start(Node::Catalog).await, start(Node::Order).await];
    anonymous.until_ready().await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(1990, 1000).await;
    let mut orders: Vec<Order> = vec![];
    for round in 0..2 {
        for (index, node) in Node::ALL.into_iter().enumerate() {
            let anna = anonymous.register(&format!("anna-{round}-{index}")).await;
            orders.push(anna.order(&[(&teapot, 3)]).await.read(201));
            let change = orders[0].quantity_change(0, 4 + round);
            admin.put(Node::Order, &orders[0].update_path(), change).await.expect(200);
            processes[index].kill();
            processes[index] = start(node).await;
            anonymous.until_ready().await;
        }
    }
    // Every acknowledged order exists, and the replicated tables equal their sources.
    for order in &orders {
        admin.get(Node::Order, &order.path()).await.expect(200);
    }
    let sold = 3 * orders.len() as i64 + 2;
    let mut order_db = settings.database(Node::Order).await;
    let stock = "select quantity from products";
    assert_eq!(number(&mut order_db, stock).await, 1000 - sold);
    admin.until_stock(&teapot, 1000 - sold).await;
    let users = rows(&mut settings.database(Node::Auth).await, "users").await;
    assert_eq!(users.len(), 1 + orders.len());
    for node in [Node::Catalog, Node::Order] {
        let mut database = settings.database(node).await;
        assert_eq!(rows(&mut database, "customers").await, users);
    }
    for node in Node::ALL {
        let mut database = settings.database(node).await;
        eventually(async || equal(number(&mut database, "select count(*) from outbox").await, 0))
            .await;
    }
}

async fn number(database: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

/// A node's copy of the users.
async fn rows(database: &mut PgConnection, table: &str) -> Vec<(String, String, i64)> {
    let query = format!("select username, email, version from {table} order by id");
    sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(database).await.unwrap()
}

/// The maximum time until three nodes in one process are ready.
const MAX_START_TIME: Duration = Duration::from_secs(1);

#[tokio::test]
async fn three_nodes_in_one_process_start_within_a_second_in_60_mib() {
    let folder = Folder::new("shop-small").unwrap();
    let (mut settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    settings.set("SHOP__LOG__FORMAT", "json");
    settings.set("SHOP__AUTH__BCRYPT_COST", "12");
    let client = Client::new(urls);
    let mut durations = vec![];
    binary().await;
    // The first start creates databases and queues. The fastest of the next ones counts, because the
    // machine may be busy.
    while durations.len() < 2 || (durations[1..].iter().min() > Some(&MAX_START_TIME)) {
        assert!(durations.len() < 20, "{durations:?}");
        let since = Instant::now();
        let process = Process::start(&folder, &["run"], &settings.variables).await;
        client.until_ready().await;
        durations.push(since.elapsed());
        let memory = process.resident_mib();
        println!("ready after {:?}, {memory} MiB", since.elapsed());
        assert!(memory < 60, "three idle nodes use {memory} MiB");
        let log = process.stderr();
        for line in log.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        }
        assert!(process.stop().await.success(), "{log}");
    }
}

#[tokio::test]
async fn the_embedded_shop_keeps_its_data_and_locks_it() {
    let folder = Folder::new("shop-embedded").unwrap();
    let (settings, urls) = Settings::with_fixed_ports(BrokerKind::Bus).await;
    let ports = |(key, _): &&(String, String)| key.ends_with("HTTP__PORT");
    let variables: Vec<_> = settings.variables.iter().filter(ports).cloned().collect();
    let anonymous = Client::new(urls);

    let mut shop = Process::start(&folder, &[], &variables).await;
    anonymous.until_ready().await;
    let banner = eventually(|| async {
        Some(shop.stdout()).filter(|out| out.contains("broker ")).ok_or("no banner".into())
    });
    let banner = banner.await;
    let password = banner.split("admin, password ").nth(1).and_then(|rest| rest.split(' ').next());
    let login =
        json!({"username": "admin", "password": password.expect("shown at the first start")});
    let login: Login = anonymous.post(Node::Auth, "/api/v1/auth/login", login).await.read(200);
    let admin = anonymous.with_token(&login.access_token);
    let teapot = admin.product(1990, 10).await;

    // A second shop on the same data is refused.
    let (other, _) = Settings::with_fixed_ports(BrokerKind::Bus).await;
    let other: Vec<_> = other.variables.iter().filter(ports).cloned().collect();
    let (code, _, error) = Process::run(&folder, &["run"], &other).await;
    assert_ne!(code, Some(0), "{error}");
    assert!(error.contains("another shop is running on the data in"), "{error}");

    // An administrator can be created while it runs.
    let create = ["admin", "create", "--username", "olga", "--email", "olga@example.com"];
    let mut command = Command::new(binary().await);
    command.args(create).current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut create = command.spawn().unwrap();
    writeln!(create.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(create.wait_with_output().unwrap().status.success());
    assert_eq!(anonymous.log_in("olga").await.user().role, "ADMIN");

    let (code, output, error) = Process::run(&folder, &["verify"], &variables).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(output.contains("no differences"), "{output}");

    shop.kill();
    let shop = Process::start(&folder, &[], &variables).await;
    anonymous.until_ready().await;
    assert_eq!(admin.stock(&teapot).await, 10, "the data and the key of the tokens are kept");
    assert!(!shop.stdout().contains("password"), "the password is shown only at the first start");
    assert!(shop.stop().await.success());
}

#[tokio::test]
async fn dead_letters_are_managed_from_the_command_line() {
    let folder = Folder::new("shop-letters").unwrap();
    let (settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    let process = Process::start(&folder, &["run"], &settings.variables).await;
    Client::new(urls).until_ready().await;
    assert!(process.stop().await.success());
    // A message that the node could not apply.
    let id = Uuid::new_v4();
    let letter =
        "insert into dead_letters values ($1, 'product.created', 'product.created', null, 1,
                  'the body cannot be read', now(), 1, '{}', '{}', '{')";
    let mut database = settings.database(Node::Order).await;
    sqlx::query(letter).bind(id).execute(&mut database).await.unwrap();
    let (id, unknown) = (id.to_string(), Uuid::new_v4().to_string());
    for (command, code, expected) in [
        (vec!["list"], 0, "the body cannot be read"),
        (vec!["list", "--node", "auth"], 0, "there are no dead letters"),
        (vec!["redrive", &id], 1, "shop: it still cannot be applied: the body cannot be read: EOF"),
        (vec!["drop", &unknown], 1, "shop: there is no dead letter"),
        (vec!["drop", &id], 0, "the dead letter is dropped"),
        (vec!["redrive", &id], 1, "shop: there is no dead letter"),
        (vec!["list"], 0, "there are no dead letters"),
    ] {
        let arguments = [vec!["dead-letters"], command].concat();
        let (ended, output, error) = Process::run(&folder, &arguments, &settings.variables).await;
        assert_eq!(ended, Some(code), "{arguments:?}: {output}{error}");
        let text = if code == 0 { output } else { error };
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn the_process_fails_when_a_child_keeps_failing() {
    let folder = Folder::new("shop-failing").unwrap();
    let (mut settings, urls) = Settings::with_fixed_ports(BrokerKind::Bus).await;
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
    client.until_ready().await;
    let admin = client.log_in("admin").await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let mut database = settings.database(Node::Order).await;
    sqlx::raw_sql("alter table order_items drop column product_name")
        .execute(&mut database)
        .await
        .unwrap();
    let order = admin.order_body(&[(&teapot, 1)]);
    let status = eventually(async || {
        let request = admin.request(reqwest::Method::POST, Node::Order, "/order");
        drop(request.json(&order).send().await);
        process.try_status().ok_or("it still runs".to_owned())
    });
    let status = status.await;
    let log = process.stderr();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("supervisor gives up on a child"), "{log}");
}

#[tokio::test]
async fn a_failed_start_is_explained_in_one_line() {
    let folder = Folder::new("shop-refused").unwrap();
    let (settings, _) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let cases: [(&str, &str, &[&str]); 8] = [
        ("SHOP__AUTH__HTTP__PORT", &port, &["is in use", "auth.http.port"]),
        (
            "SHOP__AUTH__HTTP__PROT",
            "1",
            &["SHOP__AUTH__HTTP__PROT", "the keys of auth.http are host, port"],
        ),
        (
            "SHOP__ORDER__DATABASE__PORT",
            "9",
            &["the database", "127.0.0.1:9", "refused", "order.database"],
        ),
        ("SHOP__ORDER__DATABASE__USER", "unknown_user", &["unknown_user", "order.database"]),
        ("SHOP__JWT__SECRET_KEY", "short", &["jwt.secret_key", "at least 32 bytes"]),
        ("SHOP__JWT__ALGORITHM", "none", &["jwt.algorithm", "HS256"]),
        ("SHOP__AUTH__ADMIN__PASSWORD", "short", &["auth.admin.password", "at least 8 characters"]),
        ("SHOP__LOG__FORMAT", "xml", &["log.format", "text", "json"]),
    ];
    for (variable, value, words) in cases {
        let mut settings = settings.clone();
        settings.set(variable, value);
        let (code, _, error) = Process::run(&folder, &["run"], &settings.variables).await;
        assert_eq!(code, Some(1), "{variable}={value}");
        let lines: Vec<_> = error.lines().filter(|line| line.starts_with("shop: ")).collect();
        assert_eq!(lines.len(), 1, "{error}");
        assert!(words.iter().all(|word| lines[0].contains(word)), "{variable}={value}: {error}");
    }
    let mut settings = settings.clone();
    settings.set("SHOP__EMBEDDED__BROKER", "true");
    let (code, _, error) = Process::run(&folder, &["run", "auth"], &settings.variables).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("set embedded.broker = false"), "{error}");
}
