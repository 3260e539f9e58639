//! Lists by the size of the catalogue: a page by cursor, and the whole list with what it costs the node in memory.

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use reqwest::{Client, Url};
use serde_json::Value;
use shop_supervisor::Node;
use tokio::time::Instant;

use super::lists::PATH;
use super::{Bench, Contestant, in_turns};
use crate::chart::{MEMORY_BEFORE, MEMORY_MOST, PAGE_P50, PAGE_P99, PAGE_RATE, WHOLE_RATE};
use crate::figures::{Curve, Figure, Outcome, Row, Target, Who, megabytes};
use crate::processes::{forget_most_memory, memory};
use crate::report::thousands;
use crate::seed::Stock;
use crate::shop::Shop;
use crate::wrk::{Load, Script};

const SIZES: [i64; 3] = [1_000, 10_000, 100_000];
const MILLION: i64 = 1_000_000;
const PAGE: usize = 50;
const CONNECTIONS: u32 = 8;
/// A list of a million takes long.
const MOST_WHOLE_LISTS: u32 = 3;

fn page_of(size: i64) -> String {
    format!("page of {PAGE} by cursor, of {} products", thousands(size as f64))
}

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let sizes = SIZES.into_iter().chain(bench.big.then_some(MILLION)).collect::<Vec<_>>();
    for size in &sizes {
        let shop = bench.stand.shop_with(Stock { products: *size, orders: 0 }).await?;
        if let Err(error) = pages(bench, &shop, *size, outcome).await {
            outcome.trouble.push(format!("{}: {error:#}", page_of(*size)));
        }
        whole(bench, &shop, *size, outcome).await?;
        shop.stop().await?;
    }
    compare(&sizes, outcome)?;
    Ok(())
}

async fn pages(bench: &Bench, shop: &Shop, size: i64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let token = &bench.stand.people.admin.token;
    let url = shop.url(Node::Catalog, PATH);
    cursors_are_ids(&url, token).await?;
    let load = |url: &str, seconds| Load {
        url: url.to_owned(),
        script: Script::GetNumbered {
            token: token.clone(),
            path: format!("{PATH}?limit={PAGE}&cursor=%d"),
            first: 1,
            last: size - PAGE as i64,
        },
        threads: 1,
        connections: CONNECTIONS,
        seconds,
        rate: None,
    };
    let contestant = Contestant { who: Who::Shop, url, watched: shop.watched() };
    in_turns(bench, &page_of(size), &[contestant], load, outcome).await
}

/// Whether a page leads on by the last id on it: so any can be asked for.
async fn cursors_are_ids(url: &str, token: &str) -> anyhow::Result<()> {
    let client = Client::builder().no_proxy().build()?;
    let page = client.get(format!("{url}?limit={PAGE}")).bearer_auth(token);
    let page = page.send().await?.error_for_status()?;
    let link = page.headers().get("link").map(|link| link.to_str().map(str::to_owned));
    let products: Vec<Value> = page.json().await?;
    ensure!(products.len() == PAGE, "a page of {PAGE} holds {} products", products.len());
    let link = link.context("a page without a Link to the next one")??;
    let next =
        link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(next, _)| next);
    let next = Url::parse(url)?.join(next.context("a Link without an address")?)?;
    let cursor = next.query_pairs().find(|(name, _)| name == "cursor").map(|(_, value)| value);
    let last = products.last().and_then(|product| product["id"].as_i64()).unwrap_or_default();
    match cursor {
        Some(cursor) if *cursor == *last.to_string() => Ok(()),
        Some(cursor) => bail!("the cursor after product {last} is {cursor}, and not its id"),
        None => bail!("the Link to the next page has no cursor: {link}"),
    }
}

async fn whole(bench: &Bench, shop: &Shop, size: i64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (token, pid) = (&bench.stand.people.admin.token, shop.pid(Node::Catalog));
    let url = shop.url(Node::Catalog, PATH);
    let client = Client::builder().no_proxy().build()?;
    client.get(shop.url(Node::Catalog, "/")).send().await?.error_for_status()?; // it is connected
    let resident = |name| memory(pid, name).map(megabytes).context("the catalog node is gone");
    let (mut took, mut mega) = (vec![], vec![]);
    let (mut before, mut most, mut after) = (vec![], vec![], vec![]);
    for _ in 0..bench.rounds.min(MOST_WHOLE_LISTS) {
        before.push(resident("VmRSS")?);
        forget_most_memory(pid)?;
        let since = Instant::now();
        mega.push(megabytes(stream(&client, &url, token, size).await?));
        took.push(since.elapsed().as_secs_f64());
        most.push(resident("VmHWM")?);
        after.push(resident("VmRSS")?);
    }
    let what = format!("whole list of {} products", thousands(size as f64));
    let (took, before, most) = (Figure::of(took)?, Figure::of(before)?, Figure::of(most)?);
    let x = size as f64;
    add_point(outcome, WHOLE_RATE, (x, x / took.median));
    add_point(outcome, MEMORY_BEFORE, (x, before.median));
    add_point(outcome, MEMORY_MOST, (x, most.median));
    outcome.rows.extend([
        Row::shown(format!("{what}, streamed"), "s", took),
        Row::shown(format!("{what}, its size"), "MB", Figure::of(mega)?),
        Row::shown(format!("{what}, the node's memory before"), "MB", before),
        Row::shown(format!("{what}, at most"), "MB", most),
        Row::shown(format!("{what}, after"), "MB", Figure::of(after)?),
    ]);
    Ok(())
}

/// Reads the list as it comes, keeping none of it but its end. Says how many bytes it was.
async fn stream(client: &Client, url: &str, token: &str, size: i64) -> anyhow::Result<u64> {
    const KEPT: usize = 1024;
    let answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    let (mut bytes, mut end, mut body) = (0, vec![], answer.bytes_stream());
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        end.extend_from_slice(&chunk);
        end.drain(..end.len().saturating_sub(KEPT));
    }
    let end = String::from_utf8_lossy(&end);
    ensure!(end.contains(&format!(r#""id":{size},"#)), "the list ends with {end}");
    Ok(bytes)
}

fn compare(sizes: &[i64], outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut pages = vec![];
    for size in sizes {
        let what = page_of(*size);
        if outcome.runs_of(Who::Shop, &what).next().is_none() {
            continue;
        }
        let p50 = Figure::among(outcome.runs_of(Who::Shop, &what), |run| run.p50_ms)?;
        let p99 = Figure::among(outcome.runs_of(Who::Shop, &what), |run| run.p99_ms)?;
        let rate = outcome.rate(Who::Shop, &what)?;
        add_point(outcome, PAGE_RATE, (*size as f64, rate.median * PAGE as f64));
        add_point(outcome, PAGE_P50, (*size as f64, p50.median));
        add_point(outcome, PAGE_P99, (*size as f64, p99.median));
        outcome.rows.push(Row::shown(&what, "/s", rate));
        pages.push((what, p50));
    }
    if let [(_, least), .., (what, most)] = pages.as_slice() {
        let what = format!("{what}, p50, beside that of the smallest catalogue");
        let target = Target::RatioAtMost(1.5);
        outcome.rows.push(Row::compared(what, "ms", most.clone(), least.clone(), target));
    }
    Ok(())
}

fn add_point(outcome: &mut Outcome, name: &str, point: (f64, f64)) {
    match outcome.curves.iter_mut().find(|curve| curve.name == name) {
        Some(curve) => curve.points.push(point),
        None => outcome.curves.push(Curve { name: name.to_owned(), points: vec![point] }),
    }
}
