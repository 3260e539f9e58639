//! A list of 100 products. Baseline: a server that sends the same bytes.

use std::fs;

use anyhow::{Context, ensure};
use shop_supervisor::Node;

use super::{Bench, ServerUnderTest, add_curves, measure_alternately};
use crate::chart::{LIST_P50, LIST_P99, LIST_RATE};
use crate::figures::{Outcome, Row, Subject, Target};
use crate::seed::Stock;
use crate::shop::Shop;
use crate::wrk::{Load, Script};

pub const PATH: &str = "/api/v1/products";
const LIST: &str = "GET products, 100 of them";
const CONNECTIONS: u32 = 64;
/// Numbers of connections in the chart.
const SWEEP: [u32; 6] = [8, 16, 32, 64, 128, 256];

/// Requests of the whole list with an administrator's token.
pub fn load(bench: &Bench, url: &str, threads: u32, connections: u32, seconds: u64) -> Load {
    Load {
        url: url.to_owned(),
        script: Script::Get { token: bench.environment.users.admin.token.clone() },
        threads,
        connections,
        seconds,
        rate: None,
    }
}

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    let shop = environment.start_shop_with(Stock::SMALL).await?;
    let token = &environment.users.admin.token;
    let url = shop.url(Node::Catalog, PATH);
    let list = fetch(&url, token).await?;
    let products: Vec<serde_json::Value> = serde_json::from_slice(&list)?;
    ensure!(products.len() == 100, "the shop lists {} products of 100", products.len());
    let file = environment.folder().join("list.json");
    fs::write(&file, &list)?;
    let file = file.to_str().context("the path of the list is not UTF-8")?;
    let (baseline, baseline_url) =
        environment.start_baseline(&["baseline-list", "--file", file]).await?;
    let baseline_url = format!("{baseline_url}{PATH}");
    ensure!(fetch(&baseline_url, token).await? == list, "the baseline's list differs");

    let servers = [
        ServerUnderTest { subject: Subject::Shop, url: url.clone(), trees: shop.process_trees() },
        ServerUnderTest {
            subject: Subject::Baseline,
            url: baseline_url,
            trees: baseline.process_trees(),
        },
    ];
    let list = |url: &str, seconds| load(bench, url, 2, CONNECTIONS, seconds);
    measure_alternately(bench, LIST, &servers, list, outcome).await?;
    baseline.kill().await?;
    sweep(bench, &shop, &url, outcome).await?;
    shop.stop().await?;
    let (shop, limit) =
        (outcome.rate(Subject::Shop, LIST)?, outcome.rate(Subject::Baseline, LIST)?);
    let target = Target::RatioAtLeast(0.80);
    outcome.rows.push(Row::compared_with_target(LIST, "/s", shop, limit, target));
    Ok(())
}

/// Measures the shop with each number of connections.
async fn sweep(bench: &Bench, shop: &Shop, url: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
    for _ in 0..bench.rounds {
        for connections in SWEEP {
            let load = load(bench, url, 2, connections, bench.seconds);
            let run = bench.environment.load(Subject::Shop, &shop.process_trees(), &load).await?;
            outcome.runs.push(run.named(name_of(connections)));
        }
    }
    add_curves(outcome, &SWEEP, name_of, [LIST_RATE, LIST_P50, LIST_P99])
}

fn name_of(connections: u32) -> String {
    format!("GET products, {connections} connections")
}

/// The body of a successful response.
pub async fn fetch(url: &str, token: &str) -> anyhow::Result<Vec<u8>> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let response = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    Ok(response.bytes().await?.to_vec())
}
