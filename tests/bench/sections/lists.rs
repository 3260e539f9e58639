//! A list of 100 products, beside a server that answers the very same bytes.

use std::fs;

use anyhow::{Context, ensure};
use shop_supervisor::Node;

use super::{Bench, Contestant, draw, in_turns};
use crate::chart::{LIST_P50, LIST_P99, LIST_RATE};
use crate::figures::{Outcome, Row, Target, Who};
use crate::seed::Stock;
use crate::shop::Shop;
use crate::wrk::{Load, Script};

pub const PATH: &str = "/api/v1/products";
const LIST: &str = "GET products, 100 of them";
const CONNECTIONS: u32 = 64;
/// For the picture.
const SWEEP: [u32; 6] = [8, 16, 32, 64, 128, 256];

/// The whole list, by somebody who is signed in.
pub fn load(bench: &Bench, url: &str, threads: u32, connections: u32, seconds: u64) -> Load {
    Load {
        url: url.to_owned(),
        script: Script::Get { token: bench.stand.people.admin.token.clone() },
        threads,
        connections,
        seconds,
        rate: None,
    }
}

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    let shop = stand.shop_with(Stock::SMALL).await?;
    let token = &stand.people.admin.token;
    let url = shop.url(Node::Catalog, PATH);
    let list = fetch(&url, token).await?;
    let products: Vec<serde_json::Value> = serde_json::from_slice(&list)?;
    ensure!(products.len() == 100, "the shop lists {} products of 100", products.len());
    let file = stand.folder().join("list.json");
    fs::write(&file, &list)?;
    let file = file.to_str().context("a folder whose name is text")?;
    let (bare, bare_url) = stand.server(&["bare-list", "--file", file]).await?;
    let bare_url = format!("{bare_url}{PATH}");
    ensure!(fetch(&bare_url, token).await? == list, "the limit's list differs");

    let contestants = [
        Contestant { who: Who::Shop, url: url.clone(), watched: shop.watched() },
        Contestant { who: Who::Limit, url: bare_url, watched: bare.watched() },
    ];
    let list = |url: &str, seconds| load(bench, url, 2, CONNECTIONS, seconds);
    in_turns(bench, LIST, &contestants, list, outcome).await?;
    bare.kill().await?;
    sweep(bench, &shop, &url, outcome).await?;
    shop.stop().await?;
    let (by_shop, by_limit) = (outcome.rate(Who::Shop, LIST)?, outcome.rate(Who::Limit, LIST)?);
    let target = Target::RatioAtLeast(0.80);
    outcome.rows.push(Row::compared(LIST, "/s", by_shop, by_limit, target));
    Ok(())
}

/// By few and by many.
async fn sweep(bench: &Bench, shop: &Shop, url: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
    for _ in 0..bench.rounds {
        for connections in SWEEP {
            let load = load(bench, url, 2, connections, bench.seconds);
            let run = bench.stand.load(Who::Shop, &shop.watched(), &load).await?;
            outcome.runs.push(run.named(by_many(connections)));
        }
    }
    draw(outcome, &SWEEP, by_many, [LIST_RATE, LIST_P50, LIST_P99])
}

fn by_many(connections: u32) -> String {
    format!("GET products, {connections} connections")
}

/// What an answer of 200 holds.
pub async fn fetch(url: &str, token: &str) -> anyhow::Result<Vec<u8>> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    Ok(answer.bytes().await?.to_vec())
}
