//! Delay until the first order of a new user is accepted. The order is sent as soon as the
//! registration is answered, and repeated until the order node has received the user's event.
//! Limit: an order of a user that the order node knows already.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shop_supervisor::Node;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Bench;
use super::orders::PATH;
use crate::figures::{Figure, Outcome, Row, Target};
use crate::seed::Stock;
use crate::shop::Shop;
use crate::users::PASSWORD;

const REGISTER: &str = "/api/v1/auth/register";
const FIRST_ORDER: &str = "first order of a new user; limit: order of a known user";
/// Number of orders of new users, and of known users. They alternate.
const ORDERS: usize = 20;
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures the section.
pub async fn measure(bench: &Bench, outcome: &mut Outcome) -> anyhow::Result<()> {
    let shop = bench.environment.start_shop_with(Stock::SMALL).await?;
    let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let client = Client { shop: &shop, http, token: &bench.environment.users.admin.token };
    let known_user = bench.environment.users.buyers.first().context("no buyers")?.id;
    let (mut new, mut known, mut rejections) = (vec![], vec![], vec![]);
    client.place(client.register("first").await?).await?; // opens the connections
    for number in 0..ORDERS {
        let new_user = client.register(&format!("new-{number}")).await?;
        let (milliseconds, rejected) = client.place(new_user).await?;
        new.push(milliseconds);
        rejections.push(f64::from(rejected));
        // Registers another user, so that both orders are placed right after a registration.
        client.register(&format!("other-{number}")).await?;
        known.push(client.place(known_user).await?.0);
    }
    shop.stop().await?;
    let (new, known) = (Figure::of(new)?, Figure::of(known)?);
    let added = Figure::of(vec![new.median - known.median])?;
    outcome.rows.extend([
        Row::compared(FIRST_ORDER, "ms", new, known),
        Row::shop_with_target(
            "added delay of a new user's order",
            "ms",
            added,
            Target::AtMost(5.0),
        ),
        Row::shop("rejections of a new user's order", "times", Figure::of(rejections)?),
    ]);
    Ok(())
}

/// Registers users, and places orders for them as an administrator, over one connection per node.
struct Client<'s> {
    shop: &'s Shop,
    http: reqwest::Client,
    token: &'s str,
}

impl Client<'_> {
    async fn register(&self, name: &str) -> anyhow::Result<Uuid> {
        let email = format!("{name}@example.com");
        let body = json!({"username": name, "email": email, "password": PASSWORD});
        let url = self.shop.url(Node::Auth, REGISTER);
        let response = self.http.post(url).json(&body).send().await?.error_for_status()?;
        let user: Value = response.json().await?;
        Ok(user["id"].as_str().context("the new user has no id")?.parse()?)
    }

    /// Places an order. Returns the milliseconds until it was accepted and the number of rejections
    /// before.
    async fn place(&self, user: Uuid) -> anyhow::Result<(f64, u32)> {
        let items = json!([{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 2}]);
        let body = json!({"user_id": user, "items": items});
        let url = self.shop.url(Node::Order, PATH);
        let since = Instant::now();
        let mut rejected = 0;
        loop {
            let request = self.http.post(&url).bearer_auth(self.token).json(&body);
            let response = request.send().await?;
            let status = response.status();
            let text = response.text().await?;
            match status {
                StatusCode::CREATED => return Ok((since.elapsed().as_secs_f64() * 1e3, rejected)),
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::SERVICE_UNAVAILABLE
                    if since.elapsed() < TIMEOUT =>
                {
                    rejected += 1;
                    sleep(RETRY_INTERVAL).await;
                }
                _ => bail!("unexpected response to an order: {status} {text}"),
            }
        }
    }
}
