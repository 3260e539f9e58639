//! Relays a backlog in the catalog's outbox until the order node has applied all of it. Baseline:
//! publishing with confirms alone.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::Bench;
use crate::baseline::PublishTimes;
use crate::figures::{Outcome, Row, Run, Subject, Target};
use crate::processes::usage;
use crate::seed::{Stock, number};
use crate::shop::Layout;

const RELAYED: &str = "product.created relayed and applied";
const CONSUMED: &str = "messages consumed and acknowledged alone";
/// Large enough that the first messages do not matter.
const BASELINE_MESSAGES: u64 = 20_000;
/// The events create the products.
const EMPTY: Stock = Stock { products: 0, orders: 0 };

const TIMEOUT: Duration = Duration::from_secs(600);
const FIRST_EVENT_POLL: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(20);

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let environment = &bench.environment;
    for _ in 0..bench.rounds {
        outcome.runs.push(relay(bench).await?.named(RELAYED));
        let (port, messages) =
            (environment.broker_port().to_string(), BASELINE_MESSAGES.to_string());
        let arguments = ["baseline-publish", "--broker-port", &port, "--messages", &messages];
        let before = usage(&environment.with_servers(&vec![]));
        let times: PublishTimes =
            serde_json::from_str(&environment.run_baseline(&arguments).await?)?;
        let after = usage(&environment.with_servers(&vec![]));
        let run = |seconds| Run::of_rate(Subject::Baseline, 1, seconds, BASELINE_MESSAGES);
        let published = run(times.publishing).with_usage(BASELINE_MESSAGES, &before, &after);
        outcome.runs.extend([published.named(RELAYED), run(times.consuming).named(CONSUMED)]);
    }
    let (shop, baseline) =
        (outcome.rate(Subject::Shop, RELAYED)?, outcome.rate(Subject::Baseline, RELAYED)?);
    let consumed = outcome.rate(Subject::Baseline, CONSUMED)?;
    outcome.rows.push(Row::compared_with_target(
        RELAYED,
        "/s",
        shop,
        baseline,
        Target::RatioAtLeast(0.50),
    ));
    outcome.rows.push(Row::limit(CONSUMED, "/s", consumed));
    Ok(())
}

/// Measures the time from the relay of the first event until the last one is applied.
async fn relay(bench: &Bench) -> anyhow::Result<Run> {
    let environment = &bench.environment;
    environment.reset(EMPTY).await?;
    let mut catalog = environment.database(Node::Catalog).await?;
    let mut order = environment.database(Node::Order).await?;
    insert_events(&mut catalog, bench.backlog).await?;
    let before = usage(&environment.with_servers(&vec![]));
    let applied = async {
        while number(&mut catalog, FIRST_EVENT).await? > 0 {
            sleep(FIRST_EVENT_POLL).await;
        }
        let since = Instant::now();
        // Counting is slow: rows are counted only after the last event was applied.
        while !is_applied(&mut order, bench.backlog).await?
            || number(&mut order, APPLIED).await? < bench.backlog
            || number(&mut catalog, HAS_EVENTS).await? > 0
        {
            sleep(POLL).await;
        }
        anyhow::Ok(since.elapsed().as_secs_f64())
    };
    let applied = async {
        timeout(TIMEOUT, applied).await.context("not all events are applied within 600 s")?
    };
    let starting = environment.start_shop(Layout::ThreeProcesses, &[]);
    let (shop, seconds) = tokio::try_join!(starting, applied)?;
    let after = usage(&environment.with_servers(&shop.process_trees()));
    shop.stop().await?;
    let events = u64::try_from(bench.backlog)?;
    Ok(Run::of_rate(Subject::Shop, 1, seconds, events).with_usage(events, &before, &after))
}

const FIRST_EVENT: &str = "select count(*) from outbox where id = 1";
const HAS_EVENTS: &str = "select case when exists (select from outbox) then 1 else 0 end::bigint";
const APPLIED: &str = "select count(*) from products where version > 0";

/// Whether the event of this product was applied.
async fn is_applied(order: &mut PgConnection, product: i64) -> anyhow::Result<bool> {
    const IS_APPLIED: &str = "select exists (select from products where id = $1 and version > 0)";
    Ok(sqlx::query_scalar(IS_APPLIED).bind(product).fetch_one(order).await?)
}

/// Inserts this number of `product.created` events into the catalog's outbox.
async fn insert_events(catalog: &mut PgConnection, products: i64) -> anyhow::Result<()> {
    const INSERT: &str = r#"
        insert into outbox (message_id, event, version, body, traceparent)
        select gen_random_uuid(), 'product.created', 1,
               format('{"id":%s,"name":"Blue teapot number %s","price":1990,"quantity":100,"category_id":1}', id, id),
               '00-' || md5(id::text) || '-00f067aa0ba902b7-01'
        from generate_series(1, $1) as id order by id"#;
    sqlx::query(INSERT).bind(products).execute(&mut *catalog).await?;
    sqlx::raw_sql("vacuum analyze outbox").execute(&mut *catalog).await?;
    sqlx::raw_sql("checkpoint").execute(catalog).await?;
    Ok(())
}
