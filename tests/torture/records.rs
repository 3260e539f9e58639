//! Records of acknowledged writes: the rows that must exist at the end, in their last acknowledged state.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct User {
    pub username: String,
    pub email: String,
    pub role: String,
}

/// A category.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Category {
    pub name: String,
    pub parent_id: Option<i64>,
}

/// A product, with its initial stock.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Product {
    pub name: String,
    pub price: i64,
    pub stocked: i64,
    pub category_id: i64,
}

/// An order: its customer, and product and quantity of each item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub user_id: Uuid,
    pub items: BTreeMap<i64, (i64, i64)>,
}

/// The counts of one second of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Definite responses.
    pub answered: u32,
    /// Connection errors, timeouts and 5xx responses.
    pub failed: u32,
}

/// Counts of writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// Executed: 2xx.
    pub acknowledged: u64,
    /// Not executed: 4xx.
    pub refused: u64,
    /// The outcome was unknown for a while.
    pub unknown: u64,
    /// The response was replayed.
    pub replayed: u64,
    /// More than one attempt was needed.
    pub retried: u64,
}

/// The records of one client or of all.
#[derive(Debug, Default)]
pub struct Records {
    pub users: HashMap<Uuid, User>,
    pub deleted_users: HashSet<Uuid>,
    pub categories: HashMap<i64, Category>,
    pub products: HashMap<i64, Product>,
    pub orders: HashMap<i64, Order>,
    pub writes: Writes,
    /// Responses that contradict their requests.
    pub wrong_responses: Vec<String>,
    /// Writes without a definite response.
    pub unresolved: Vec<String>,
    /// Responses with status 500.
    pub internal_errors: Vec<String>,
    pub requests: u64,
    pub seconds: Vec<Second>,
    /// The latency of each definite response, without earlier attempts.
    pub latencies: Vec<Duration>,
    /// The time from the first attempt of each write to its definite response.
    pub resolution_times: Vec<Duration>,
}

impl Records {
    /// Counts an attempt that has just ended.
    pub fn count(&mut self, start: Instant, answered: bool) {
        let second = usize::try_from(start.elapsed().as_secs()).unwrap_or(usize::MAX);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        self.requests += 1;
        if answered {
            self.seconds[second].answered += 1;
        } else {
            self.seconds[second].failed += 1;
        }
    }

    /// Adds the records of another client.
    pub fn merge(&mut self, other: Records) {
        self.add("user", |all| &mut all.users, other.users);
        self.add("category", |all| &mut all.categories, other.categories);
        self.add("product", |all| &mut all.products, other.products);
        self.add("order", |all| &mut all.orders, other.orders);
        self.deleted_users.extend(other.deleted_users);
        self.writes.acknowledged += other.writes.acknowledged;
        self.writes.refused += other.writes.refused;
        self.writes.unknown += other.writes.unknown;
        self.writes.replayed += other.writes.replayed;
        self.writes.retried += other.writes.retried;
        self.wrong_responses.extend(other.wrong_responses);
        self.unresolved.extend(other.unresolved);
        self.internal_errors.extend(other.internal_errors);
        self.requests += other.requests;
        let length = self.seconds.len().max(other.seconds.len());
        self.seconds.resize(length, Second::default());
        for (sum, second) in self.seconds.iter_mut().zip(other.seconds) {
            sum.answered += second.answered;
            sum.failed += second.failed;
        }
        self.latencies.extend(other.latencies);
        self.resolution_times.extend(other.resolution_times);
    }

    /// Adds rows. A row that acknowledges two writes means that one of them was lost.
    pub fn add<K: std::hash::Hash + Eq + std::fmt::Display + Copy, V>(
        &mut self,
        what: &str,
        rows: impl Fn(&mut Records) -> &mut HashMap<K, V>,
        more: impl IntoIterator<Item = (K, V)>,
    ) {
        for (id, row) in more {
            if rows(self).insert(id, row).is_some() {
                self.wrong_responses.push(format!("{what} {id} acknowledges two writes"));
            }
        }
    }

    /// Records a response that contradicts its request.
    pub fn check(&mut self, correct: bool, what: &str, response: &Value) {
        if !correct {
            self.wrong_responses.push(format!("{what}: {response}"));
        }
    }
}
