//! The load: clients that write with an idempotency key and repeat each request with the same key until
//! the response is definite.

mod actions;
mod requests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use shop_supervisor::Node;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::environment::Environment;
use crate::records::Records;

/// The timeout of one attempt.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// How long after the end of the load a client repeats requests without a definite response.
const RESOLUTION_TIMEOUT: Duration = Duration::from_secs(90);
/// The number of newest products that are ordered.
const ORDERABLE: usize = 30;

/// What all clients share.
#[derive(Debug)]
pub struct Load {
    http: reqwest::Client,
    urls: [Vec<String>; Node::ALL.len()],
    seed: u64,
    start: Instant,
    end: Instant,
    /// The mean pause of a client between two actions.
    pause: Duration,
    /// The administrator's token.
    admin_token: tokio::sync::Mutex<Option<String>>,
    /// Acknowledged products and categories.
    products: Mutex<Vec<i64>>,
    categories: Mutex<Vec<i64>>,
}

impl Load {
    /// Prepares clients that together start about `rate` actions per second for `duration`.
    pub fn new(
        environment: &Environment,
        seed: u64,
        clients: u32,
        rate: f64,
        duration: Duration,
    ) -> anyhow::Result<Load> {
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        let start = Instant::now();
        Ok(Load {
            http,
            urls: Node::ALL.map(|node| environment.client_urls(node)),
            seed,
            start,
            end: start + duration,
            pause: Duration::from_secs_f64(f64::from(clients) / rate),
            admin_token: tokio::sync::Mutex::default(),
            products: Mutex::default(),
            categories: Mutex::default(),
        })
    }

    /// When the load started.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Adds categories and products: a large stock of most products, a small one of some.
    pub async fn fill_catalog(self: &Arc<Load>) -> Records {
        let mut client = Client::new(Arc::clone(self), 0);
        for _ in 0..4 {
            client.add_category().await;
        }
        for number in 0..20 {
            client.add_product(if number % 4 == 0 { 100 } else { 1_000_000 }).await;
        }
        client.records
    }

    /// Runs one client until the end of the load and the definite response to its last request.
    pub async fn run_client(self: Arc<Load>, number: u64) -> Records {
        let mut client = Client::new(self, number);
        while Instant::now() < client.load.end {
            client.act().await;
            let pause = client.load.pause.mul_f64(client.rng.random_range(0.0..2.0));
            sleep(pause).await;
        }
        client.records
    }

    /// Some of the newest products.
    fn choose_products(&self, rng: &mut StdRng, amount: usize) -> Vec<i64> {
        let products = self.products.lock().expect("no panic");
        let newest = &products[products.len().saturating_sub(ORDERABLE)..];
        newest.iter().copied().sample(rng, amount)
    }
}

/// A client: a user who also knows the administrator's password.
struct Client {
    load: Arc<Load>,
    rng: StdRng,
    user_id: Option<Uuid>,
    token: Option<String>,
    /// The name that an unfinished change gives the user.
    next_name: Option<String>,
    /// The orders of the user.
    orders: Vec<i64>,
    /// The number of attempts. It selects the replica of the next one.
    attempts: usize,
    records: Records,
}

impl Client {
    fn new(load: Arc<Load>, number: u64) -> Client {
        Client {
            rng: StdRng::seed_from_u64(load.seed.wrapping_add(number << 32)),
            load,
            user_id: None,
            token: None,
            next_name: None,
            orders: vec![],
            attempts: number as usize,
            records: Records::default(),
        }
    }
}
