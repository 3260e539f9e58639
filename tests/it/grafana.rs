//! What Grafana shows and Prometheus watches: every figure that they name is one that a node tells.

use std::collections::BTreeSet;

use serde_json::Value;
use shop_supervisor::Node;

use crate::shop::{Client, Over, Settings, TestShop, eventually};

const DASHBOARD: &str = include_str!("../../docs/grafana/dashboard.json");

const ALERTS: &str = include_str!("../../docs/grafana/alerts.yml");

/// Figures that a healthy shop does not show, and why.
const UNSEEN: [(&str, &str); 1] =
    [("shop_events_dead_lettered_total", "a counter with labels shows nothing until it counts")];

/// How wide a dashboard is.
const COLUMNS: u64 = 24;

#[tokio::test]
async fn every_figure_of_the_dashboard_and_the_alerts_is_there() {
    let named: BTreeSet<_> =
        expressions().iter().flat_map(|text| figures(text)).map(str::to_owned).collect();
    assert!(named.len() > 20, "these are all: {named:?}");
    let shop = TestShop::with(Settings::alone(Over::Bus).await).await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    // Events are counted when they are confirmed, and quantiles read once a second.
    eventually(async || {
        let told = told(&shop.nobody()).await;
        let unseen = UNSEEN.map(|(name, _)| name.to_owned());
        let missing: Vec<_> =
            named.iter().filter(|name| !told.contains(*name) && !unseen.contains(name)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("no node tells {missing:?}")),
        }
    })
    .await;
    shop.close().await;
}

#[test]
fn the_dashboards_panels_stand_side_by_side_and_each_asks_something() {
    let panels = panels();
    let ids: BTreeSet<_> =
        panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for (number, panel) in panels.iter().enumerate() {
        let title = &panel["title"];
        let [x, y, width, height] = place(panel);
        assert!(width > 0 && height > 0 && x + width <= COLUMNS, "{title} is outside");
        for other in &panels[..number] {
            let [its_x, its_y, its_width, its_height] = place(other);
            let beside = x + width <= its_x || its_x + its_width <= x;
            let below = y + height <= its_y || its_y + its_height <= y;
            assert!(beside || below, "{title} covers {}", other["title"]);
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        let names: BTreeSet<_> =
            targets.iter().map(|target| target["refId"].as_str().expect("a refId")).collect();
        assert!(!targets.is_empty(), "{title} asks nothing");
        assert_eq!(names.len(), targets.len(), "{title}: two targets have one refId");
    }
}

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    dashboard["panels"].as_array().expect("panels").clone()
}

/// Where a panel stands: its column and row, width and height.
fn place(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"))
}

/// Whatever is asked of Prometheus: by the panels, the variables and the alerts.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = panels();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked = targets.map(|target| target["expr"].as_str().expect("an expression").to_owned());
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let of_variable = |variable: &Value| variable["query"]["query"].as_str().map(str::to_owned);
    let mut all: Vec<_> = asked.chain(variables.iter().filter_map(of_variable)).collect();
    let mut lines = ALERTS.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim().strip_prefix("expr:") else { continue };
        let mut expression = expression.to_owned();
        // A long one goes on below, further in.
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

/// The shop's figures in an expression.
fn figures(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("shop_"))
}

/// The names of all that the nodes tell.
async fn told(nobody: &Client) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    for node in Node::ALL {
        let text = nobody.get(node, "/metrics").await.text;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        told.extend(samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned));
    }
    told
}
