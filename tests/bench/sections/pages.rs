//! Lists by the size of the catalogue: a page by cursor, and the whole list with the memory that
//! the node uses for it.

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use reqwest::{Client, Url};
use serde_json::Value;
use shop_supervisor::Node;
use tokio::time::Instant;

use super::lists::PATH;
use super::{Bench, ServerUnderTest, measure_alternately};
use crate::chart::{MEMORY_BEFORE, MEMORY_PEAK, PAGE_P50, PAGE_P99, PAGE_RATE, WHOLE_LIST_RATE};
use crate::figures::{Curve, Figure, Outcome, Row, Subject, Target, megabytes};
use crate::processes::{memory, reset_peak_memory};
use crate::report::thousands;
use crate::seed::Stock;
use crate::shop::Shop;
use crate::wrk::{Load, Script};

const SIZES: [i64; 3] = [1_000, 10_000, 100_000];
const MILLION: i64 = 1_000_000;
const PAGE: usize = 50;
const CONNECTIONS: u32 = 8;
/// Maximum number of rounds: a list of a million products takes long.
const MAX_WHOLE_LISTS: u32 = 3;

fn page_name(size: i64) -> String {
    format!("page of {PAGE} by cursor, of {} products", thousands(size as f64))
}

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let sizes = SIZES.into_iter().chain(bench.big.then_some(MILLION)).collect::<Vec<_>>();
    for size in &sizes {
        let shop = bench.environment.start_shop_with(Stock { products: *size, orders: 0 }).await?;
        if let Err(error) = pages(bench, &shop, *size, outcome).await {
            outcome.failures.push(format!("{}: {error:#}", page_name(*size)));
        }
        whole_list(bench, &shop, *size, outcome).await?;
        shop.stop().await?;
    }
    compare(&sizes, outcome)?;
    Ok(())
}

async fn pages(bench: &Bench, shop: &Shop, size: i64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let token = &bench.environment.users.admin.token;
    let url = shop.url(Node::Catalog, PATH);
    check_cursors_are_ids(&url, token).await?;
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
    let server = ServerUnderTest { subject: Subject::Shop, url, trees: shop.process_trees() };
    measure_alternately(bench, &page_name(size), &[server], load, outcome).await
}

/// Fails unless the cursor of the next page is the last id of a page. Otherwise the load script
/// could not generate cursors.
async fn check_cursors_are_ids(url: &str, token: &str) -> anyhow::Result<()> {
    let client = Client::builder().no_proxy().build()?;
    let page = client.get(format!("{url}?limit={PAGE}")).bearer_auth(token);
    let page = page.send().await?.error_for_status()?;
    let link = page.headers().get("link").map(|link| link.to_str().map(str::to_owned));
    let products: Vec<Value> = page.json().await?;
    ensure!(products.len() == PAGE, "a page of {PAGE} holds {} products", products.len());
    let link = link.context("a page has no Link to the next one")??;
    let next =
        link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(next, _)| next);
    let next = Url::parse(url)?.join(next.context("a Link has no URL")?)?;
    let cursor = next.query_pairs().find(|(name, _)| name == "cursor").map(|(_, value)| value);
    let last = products.last().and_then(|product| product["id"].as_i64()).unwrap_or_default();
    match cursor {
        Some(cursor) if *cursor == *last.to_string() => Ok(()),
        Some(cursor) => bail!("the cursor after product {last} is {cursor} instead of its id"),
        None => bail!("the Link to the next page has no cursor: {link}"),
    }
}

async fn whole_list(
    bench: &Bench,
    shop: &Shop,
    size: i64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let (token, pid) = (&bench.environment.users.admin.token, shop.pid(Node::Catalog));
    let url = shop.url(Node::Catalog, PATH);
    let client = Client::builder().no_proxy().build()?;
    // Opens the connection before memory is measured.
    client.get(shop.url(Node::Catalog, "/")).send().await?.error_for_status()?;
    let resident = |name| memory(pid, name).map(megabytes).context("the catalog node has ended");
    let (mut seconds, mut sizes) = (vec![], vec![]);
    let (mut before, mut peak, mut after) = (vec![], vec![], vec![]);
    for _ in 0..bench.rounds.min(MAX_WHOLE_LISTS) {
        before.push(resident("VmRSS")?);
        reset_peak_memory(pid)?;
        let since = Instant::now();
        sizes.push(megabytes(stream(&client, &url, token, size).await?));
        seconds.push(since.elapsed().as_secs_f64());
        peak.push(resident("VmHWM")?);
        after.push(resident("VmRSS")?);
    }
    let what = format!("whole list of {} products", thousands(size as f64));
    let (seconds, before, peak) = (Figure::of(seconds)?, Figure::of(before)?, Figure::of(peak)?);
    let x = size as f64;
    add_point(outcome, WHOLE_LIST_RATE, (x, x / seconds.median));
    add_point(outcome, MEMORY_BEFORE, (x, before.median));
    add_point(outcome, MEMORY_PEAK, (x, peak.median));
    outcome.rows.extend([
        Row::shop(format!("{what}, streamed"), "s", seconds),
        Row::shop(format!("{what}, size"), "MB", Figure::of(sizes)?),
        Row::shop(format!("{what}, the node's memory before"), "MB", before),
        Row::shop(format!("{what}, the node's peak memory"), "MB", peak),
        Row::shop(format!("{what}, the node's memory after"), "MB", Figure::of(after)?),
    ]);
    Ok(())
}

/// Reads the list as a stream, keeps only its end, and checks the last product. Returns the number
/// of bytes.
async fn stream(client: &Client, url: &str, token: &str, size: i64) -> anyhow::Result<u64> {
    const END_LENGTH: usize = 1024;
    let response = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    let (mut bytes, mut end, mut body) = (0, vec![], response.bytes_stream());
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        end.extend_from_slice(&chunk);
        end.drain(..end.len().saturating_sub(END_LENGTH));
    }
    let end = String::from_utf8_lossy(&end);
    ensure!(end.contains(&format!(r#""id":{size},"#)), "the list ends with {end}");
    Ok(bytes)
}

fn compare(sizes: &[i64], outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut pages = vec![];
    for size in sizes {
        let what = page_name(*size);
        if outcome.runs_of(Subject::Shop, &what).next().is_none() {
            continue;
        }
        let p50 = Figure::among(outcome.runs_of(Subject::Shop, &what), |run| run.p50_ms)?;
        let p99 = Figure::among(outcome.runs_of(Subject::Shop, &what), |run| run.p99_ms)?;
        let rate = outcome.rate(Subject::Shop, &what)?;
        add_point(outcome, PAGE_RATE, (*size as f64, rate.median * PAGE as f64));
        add_point(outcome, PAGE_P50, (*size as f64, p50.median));
        add_point(outcome, PAGE_P99, (*size as f64, p99.median));
        outcome.rows.push(Row::shop(&what, "/s", rate));
        pages.push((what, p50));
    }
    if let [(_, smallest), .., (what, largest)] = pages.as_slice() {
        let what = format!("{what}, p50; limit: the smallest catalogue");
        let target = Target::RatioAtMost(1.5);
        outcome.rows.push(Row::compared_with_target(
            what,
            "ms",
            largest.clone(),
            smallest.clone(),
            target,
        ));
    }
    Ok(())
}

fn add_point(outcome: &mut Outcome, name: &str, point: (f64, f64)) {
    match outcome.curves.iter_mut().find(|curve| curve.name == name) {
        Some(curve) => curve.points.push(point),
        None => outcome.curves.push(Curve { name: name.to_owned(), points: vec![point] }),
    }
}
