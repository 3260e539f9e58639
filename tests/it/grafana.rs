//! The Grafana dashboard and the Prometheus alerts: every metric that they name exists.

use std::collections::BTreeSet;

use serde_json::Value;
use shop_supervisor::Node;

use shop_tests::{Client, TestShop, eventually};

const DASHBOARD: &str = include_str!("../../docs/grafana/dashboard.json");

const ALERTS: &str = include_str!("../../docs/grafana/alerts.yml");

/// Metrics that a healthy shop does not export: a counter with labels appears with its first count.
const ABSENT: [&str; 1] = ["shop_events_dead_lettered_total"];

/// The width of a dashboard.
const COLUMNS: u64 = 24;

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alerts_exists() {
    let named: BTreeSet<_> =
        expressions().iter().flat_map(|text| metrics(text)).map(str::to_owned).collect();
    assert!(named.len() > 20, "only {named:?}");
    let shop = TestShop::start_single_replica().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    // Events are counted when they are confirmed, and quantiles are sampled once a second.
    eventually(async || {
        let exported = exported(&shop.anonymous()).await;
        let exists = |name: &&String| exported.contains(*name) || ABSENT.contains(&name.as_str());
        let missing: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no node exports {missing:?}")) }
    })
    .await;
    shop.close().await;
}

#[test]
fn panels_do_not_overlap_and_each_has_a_query() {
    let panels = panels();
    let ids: BTreeSet<_> =
        panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have the same id");
    for (number, panel) in panels.iter().enumerate() {
        let title = &panel["title"];
        let [x, y, width, height] = position(panel);
        assert!(width > 0 && height > 0 && x + width <= COLUMNS, "{title} exceeds the width");
        for other in &panels[..number] {
            let [its_x, its_y, its_width, its_height] = position(other);
            let beside = x + width <= its_x || its_x + its_width <= x;
            let below = y + height <= its_y || its_y + its_height <= y;
            assert!(beside || below, "{title} overlaps {}", other["title"]);
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        let names: BTreeSet<_> =
            targets.iter().map(|target| target["refId"].as_str().expect("a refId")).collect();
        assert!(!targets.is_empty(), "{title} has no query");
        assert_eq!(names.len(), targets.len(), "{title}: two targets have the same refId");
    }
}

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    dashboard["panels"].as_array().expect("panels").clone()
}

/// A panel's column, row, width and height.
fn position(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a position"))
}

/// All Prometheus expressions of the panels, the variables and the alerts.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = panels();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let of_panels =
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned());
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let of_variable = |variable: &Value| variable["query"]["query"].as_str().map(str::to_owned);
    let mut all: Vec<_> = of_panels.chain(variables.iter().filter_map(of_variable)).collect();
    let mut lines = ALERTS.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim().strip_prefix("expr:") else { continue };
        let mut expression = expression.to_owned();
        // A long expression continues on the next, more indented lines.
        while let Some(more) = lines.next_if(|next| indent(next) > indent(line)) {
            expression.push_str(more);
        }
        all.push(expression);
    }
    all
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The names of the shop's metrics in an expression.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("shop_"))
}

/// The names of all metrics that the nodes export.
async fn exported(client: &Client) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for node in Node::ALL {
        let text = client.get(node, "/metrics").await.text;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        names.extend(samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned));
    }
    names
}
