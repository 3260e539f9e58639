//! Events relayed and applied: a backlog in the catalog's outbox, until the order node has applied all of it, beside
//! publishing with confirmations and nothing else.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::Bench;
use crate::bare::Took;
use crate::figures::{Outcome, Row, Run, Target, Who};
use crate::processes::usage;
use crate::seed::{Stock, number};
use crate::shop::Layout;

const RELAYED: &str = "product.created relayed and applied";
const TAKEN: &str = "messages taken and acknowledged, and nothing else";
/// Enough to be past the beginning.
const RAW_MESSAGES: u64 = 20_000;
/// There are as many products at first as there are events to come: none.
const NOTHING: Stock = Stock { products: 0, orders: 0 };

const PATIENCE: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(20);

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let stand = &bench.stand;
    for _ in 0..bench.rounds {
        outcome.runs.push(relayed(bench).await?.named(RELAYED));
        let (port, messages) = (stand.broker_port().to_string(), RAW_MESSAGES.to_string());
        let arguments = ["bare-publish", "--broker-port", &port, "--messages", &messages];
        let before = usage(&stand.watched(&vec![]));
        let took: Took = serde_json::from_str(&stand.limit(&arguments).await?)?;
        let after = usage(&stand.watched(&vec![]));
        let run = |seconds| Run::of_rate(Who::Limit, 1, seconds, RAW_MESSAGES);
        let published = run(took.publishing).with_usage(RAW_MESSAGES, &before, &after);
        outcome.runs.extend([published.named(RELAYED), run(took.consuming).named(TAKEN)]);
    }
    let (shop, raw) = (outcome.rate(Who::Shop, RELAYED)?, outcome.rate(Who::Limit, RELAYED)?);
    let taken = outcome.rate(Who::Limit, TAKEN)?;
    outcome.rows.push(Row::compared(RELAYED, "/s", shop, raw, Target::RatioAtLeast(0.50)));
    outcome.rows.push(Row::of_limit(TAKEN, "/s", taken));
    Ok(())
}

/// From the first event's leaving until the last one is applied.
async fn relayed(bench: &Bench) -> anyhow::Result<Run> {
    let stand = &bench.stand;
    stand.stocked(NOTHING).await?;
    let mut catalog = stand.database(Node::Catalog).await?;
    let mut order = stand.database(Node::Order).await?;
    announce(&mut catalog, bench.backlog).await?;
    let before = usage(&stand.watched(&vec![]));
    let applied = async {
        while number(&mut catalog, FIRST_WAITS).await? > 0 {
            sleep(SOON).await;
        }
        let since = Instant::now();
        // To count is dear, so it is done when the last one is there.
        while !is_there(&mut order, bench.backlog).await?
            || number(&mut order, APPLIED).await? < bench.backlog
            || number(&mut catalog, WAITS).await? > 0
        {
            sleep(POLL).await;
        }
        anyhow::Ok(since.elapsed().as_secs_f64())
    };
    let applied = async { timeout(PATIENCE, applied).await.context("not applied within 600 s")? };
    let running = stand.run(Layout::ThreeProcesses, &[]);
    let (shop, seconds) = tokio::try_join!(running, applied)?;
    let after = usage(&stand.watched(&shop.watched()));
    shop.stop().await?;
    let events = u64::try_from(bench.backlog)?;
    Ok(Run::of_rate(Who::Shop, 1, seconds, events).with_usage(events, &before, &after))
}

const FIRST_WAITS: &str = "select count(*) from outbox where id = 1";
const WAITS: &str = "select case when exists (select from outbox) then 1 else 0 end::bigint";
const APPLIED: &str = "select count(*) from products where version > 0";

/// Whether this product is applied.
async fn is_there(order: &mut PgConnection, product: i64) -> anyhow::Result<bool> {
    const IS_THERE: &str = "select exists (select from products where id = $1 and version > 0)";
    Ok(sqlx::query_scalar(IS_THERE).bind(product).fetch_one(order).await?)
}

/// Writes so many new products into the catalog's outbox, as if it had just stocked them.
async fn announce(catalog: &mut PgConnection, products: i64) -> anyhow::Result<()> {
    const ANNOUNCE: &str = r#"
        insert into outbox (message_id, event, version, body, traceparent)
        select gen_random_uuid(), 'product.created', 1,
               format('{"id":%s,"name":"Blue teapot number %s","price":1990,"quantity":100,"category_id":1}', id, id),
               '00-' || md5(id::text) || '-00f067aa0ba902b7-01'
        from generate_series(1, $1) as id order by id"#;
    sqlx::query(ANNOUNCE).bind(products).execute(&mut *catalog).await?;
    sqlx::raw_sql("vacuum analyze outbox").execute(&mut *catalog).await?;
    sqlx::raw_sql("checkpoint").execute(catalog).await?;
    Ok(())
}
