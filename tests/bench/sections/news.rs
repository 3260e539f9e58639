//! How soon the order node knows of somebody who just signed up on the auth node: an order that names them, placed when
//! the answer arrives, beside the same order of somebody it has known for long.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use shop_supervisor::Node;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Bench;
use super::orders::PATH;
use crate::figures::{Figure, Outcome, Row, Target};
use crate::people::PASSWORD;
use crate::seed::Stock;
use crate::shop::Shop;

const REGISTER: &str = "/api/v1/auth/register";
const NEWCOMER: &str = "order of who just signed up, beside one of somebody known";
/// Of each, in turns.
const ORDERS: usize = 20;
const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures it.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let shop = bench.stand.shop_with(Stock::SMALL).await?;
    let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let desk = Subscription { shop: &shop, client, token: &bench.stand.people.admin.token };
    let regular = bench.stand.people.buyers.first().context("there are buyers")?.id;
    let (mut newcomers, mut regulars, mut refusals) = (vec![], vec![], vec![]);
    desk.place(desk.register("first").await?).await?; // the connections are open from here on
    for number in 0..ORDERS {
        let newcomer = desk.register(&format!("newcomer-{number}")).await?;
        let (milliseconds, refused) = desk.place(newcomer).await?;
        newcomers.push(milliseconds);
        refusals.push(f64::from(refused));
        desk.register(&format!("bystander-{number}")).await?;
        regulars.push(desk.place(regular).await?.0);
    }
    shop.stop().await?;
    let (newcomers, regulars) = (Figure::of(newcomers)?, Figure::of(regulars)?);
    let later = Figure::of(vec![newcomers.median - regulars.median])?;
    outcome.rows.extend([
        Row::beside(NEWCOMER, "ms", newcomers, regulars),
        Row::alone("how much later that is", "ms", later, Target::AtMost(5.0)),
        Row::shown("refusals before it is placed", "times", Figure::of(refusals)?),
    ]);
    Ok(())
}

/// Where people sign up and an administrator orders for them, over one connection to each node.
struct Subscription<'s> {
    shop: &'s Shop,
    client: Client,
    token: &'s str,
}

impl Subscription<'_> {
    async fn register(&self, name: &str) -> anyhow::Result<Uuid> {
        let email = format!("{name}@example.com");
        let body = json!({"username": name, "email": email, "password": PASSWORD});
        let url = self.shop.url(Node::Auth, REGISTER);
        let answer = self.client.post(url).json(&body).send().await?.error_for_status()?;
        let user: Value = answer.json().await?;
        Ok(user["id"].as_str().context("a user has an id")?.parse()?)
    }

    /// Says after how many milliseconds it was placed, and after how many refusals.
    async fn place(&self, user: Uuid) -> anyhow::Result<(f64, u32)> {
        let items = json!([{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 2}]);
        let body = json!({"user_id": user, "items": items});
        let url = self.shop.url(Node::Order, PATH);
        let since = Instant::now();
        let mut refused = 0;
        loop {
            let order = self.client.post(&url).bearer_auth(self.token).json(&body);
            let answer = order.send().await?;
            let status = answer.status();
            let words = answer.text().await?;
            match status {
                StatusCode::CREATED => return Ok((since.elapsed().as_secs_f64() * 1e3, refused)),
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::SERVICE_UNAVAILABLE
                    if since.elapsed() < PATIENCE =>
                {
                    refused += 1;
                    sleep(PAUSE).await;
                }
                _ => bail!("an order was answered with {status}: {words}"),
            }
        }
    }
}
