//! Documents and tables that users and operators see, compared with committed snapshots. After an
//! intended change, `INSTA_UPDATE=always make test-one T=documents::` rewrites them for review.

use std::collections::BTreeSet;
use std::time::Duration;

use insta::assert_snapshot;
use reqwest::Method;
use shop_supervisor::Node;
use shop_supervisor::commands::verify;
use shop_tests::{Client, Folder, Process, Response, TestShop, eventually};

use crate::flow;

const ME: &str = "/api/v1/users/me";
const USERS: &str = "/api/v1/users";
const CATEGORY: &str = "/api/v1/category";
const JSON: Option<&str> = Some("application/json");

/// The parts of an error response that clients depend on.
fn problem(response: &Response) -> String {
    let status = response.status.as_u16();
    let mut text = format!("{}\n", response.status);
    for name in ["content-type", "www-authenticate", "allow", "retry-after"] {
        if let Some(value) = response.headers.get(name) {
            text += &format!("{name}: {}\n", value.to_str().expect("a text"));
        }
    }
    let body = response.expect(status);
    text += &format!("\n{}\n", serde_json::to_string_pretty(&body).expect("JSON"));
    text.replace(response.header("x-request-id"), "[request id]")
}

#[tokio::test]
async fn every_kind_of_problem() {
    let shop = TestShop::start().await;
    let (anonymous, admin, anna) = (shop.anonymous(), shop.admin().await, shop.user("anna").await);
    let post = async |content_type, body: String| {
        admin.send_raw(Method::POST, Node::Catalog, CATEGORY, content_type, body).await
    };
    let teapot = admin.product(1990, 1).await;
    let out_of_stock = anna.order(&[(&teapot, 2)]).await;
    let unavailable = {
        let mut database = shop.settings.database(Node::Order).await;
        sqlx::raw_sql("alter table orders rename to renamed").execute(&mut database).await.unwrap();
        let response = anna.order(&[(&teapot, 1)]).await;
        sqlx::raw_sql("alter table renamed rename to orders").execute(&mut database).await.unwrap();
        response
    };
    for (name, response) in [
        ("problem_400_body", post(JSON, "{".to_owned()).await),
        ("problem_400_path", admin.get(Node::Order, "/order/x").await),
        ("problem_400_query", admin.get(Node::Auth, "/api/v1/users?limit=0").await),
        ("problem_401", anonymous.get(Node::Auth, ME).await),
        ("problem_403", anna.get(Node::Auth, USERS).await),
        ("problem_404_path", admin.get(Node::Order, "/unknown").await),
        ("problem_404_row", admin.get(Node::Order, "/order/987654321").await),
        ("problem_405", admin.delete(Node::Order, "/order").await),
        ("problem_409", out_of_stock),
        ("problem_413", post(JSON, " ".repeat((1 << 20) + 1)).await),
        ("problem_415", post(None, "{}".to_owned()).await),
        ("problem_422", post(JSON, r#"{"name": "", "parent_id": "x"}"#.to_owned()).await),
        ("problem_503", unavailable),
    ] {
        assert_snapshot!(name, problem(&response));
    }
    shop.close().await;
}

/// The table of `shop verify` without the checksums, which depend on random ids.
async fn verify_table(shop: &TestShop) -> String {
    let config = shop.settings.config();
    let table = verify::verify(&config, Duration::from_secs(10)).await.unwrap().to_string();
    let is_checksum = |word: &str| word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let mask = |word| if is_checksum(word) { "[checksum]" } else { word };
    let lines = table.lines().map(|line| line.split(' ').map(mask).collect::<Vec<_>>().join(" "));
    lines.map(|line| line + "\n").collect()
}

#[tokio::test]
async fn the_table_of_shop_verify() {
    let shop = TestShop::start().await;
    flow::buy(shop.anonymous()).await;
    assert_snapshot!("verify_balanced", verify_table(&shop).await);
    let mut database = shop.settings.database(Node::Order).await;
    let damage = "update products set quantity = quantity - 1";
    sqlx::raw_sql(damage).execute(&mut database).await.unwrap();
    assert_snapshot!("verify_difference", verify_table(&shop).await);
    shop.close().await;
}

/// HELP and TYPE of every metric that a node exports.
async fn metrics(client: &Client) -> String {
    let mut lines = BTreeSet::new();
    for node in Node::ALL {
        let text = client.get(node, "/metrics").await.text;
        // HELP sorts before TYPE.
        let comments = text.lines().filter_map(|line| line.strip_prefix("# "));
        let named = comments.filter_map(|comment| {
            let (kind, rest) = comment.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            Some(format!("{name} {kind} {rest}"))
        });
        lines.extend(named);
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[tokio::test]
async fn the_names_and_help_of_all_metrics() {
    let shop = TestShop::start_single_replica().await;
    flow::buy(shop.anonymous()).await;
    // A counter with labels appears with its first count, a quantile with the first sample.
    let text = eventually(async || {
        let text = metrics(&shop.anonymous()).await;
        let late = ["events_consumed_total", "events_published_total", "handler_p99_seconds"];
        if late.iter().all(|name| text.contains(name)) { Ok(text) } else { Err(text) }
    })
    .await;
    assert_snapshot!("metrics", text);
    shop.close().await;
}

#[tokio::test]
async fn the_help_of_all_commands() {
    let folder = Folder::new("shop-help").unwrap();
    let mut text = String::new();
    for command in [
        &[][..],
        &["run"],
        &["verify"],
        &["resync"],
        &["admin"],
        &["admin", "create"],
        &["dead-letters"],
        &["dead-letters", "list"],
        &["dead-letters", "redrive"],
        &["dead-letters", "drop"],
    ] {
        let arguments = [command, &["--help"]].concat();
        let (code, help, error) = Process::run(&folder, &arguments, &[]).await;
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        text += &format!("$ shop {}\n{help}\n", arguments.join(" "));
    }
    assert_snapshot!("help", text);
}
