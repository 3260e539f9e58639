//! What the clients were told: every row that must be there in the end, as it was acknowledged last.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

/// A user as the auth node acknowledged it.
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

/// A product, with what was stocked of it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Product {
    pub name: String,
    pub price: i64,
    pub stocked: i64,
    pub category_id: i64,
}

/// An order: whose, and by item the product and how many of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub user_id: Uuid,
    pub items: BTreeMap<i64, (i64, i64)>,
}

/// What one second of the run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Definite answers.
    pub answered: u32,
    /// Broken connections, no answer in time, and 5xx.
    pub failed: u32,
}

/// How a write went until its definite answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// Done: 2xx.
    pub acknowledged: u64,
    /// Not done, for good: 4xx.
    pub refused: u64,
    /// Those whose outcome was unknown for a while.
    pub unknown: u64,
    /// Those that got the first answer again.
    pub replayed: u64,
    /// Those that took more than one try.
    pub retried: u64,
}

/// What a client, or all of them, were told.
#[derive(Debug, Default)]
pub struct Records {
    pub users: HashMap<Uuid, User>,
    pub deleted_users: HashSet<Uuid>,
    pub categories: HashMap<i64, Category>,
    pub products: HashMap<i64, Product>,
    pub orders: HashMap<i64, Order>,
    pub writes: Writes,
    /// Answers that are wrong by themselves.
    pub wrong: Vec<String>,
    /// Writes that never got a definite answer.
    pub unresolved: Vec<String>,
    /// Answers of 500: bugs.
    pub bugs: Vec<String>,
    pub requests: u64,
    pub seconds: Vec<Second>,
    /// How long each definite answer took, from the try that got it.
    pub answers: Vec<Duration>,
    /// How long each write took, from its first try to its definite answer.
    pub resolutions: Vec<Duration>,
}

impl Records {
    /// Counts a try that just ended.
    pub fn count(&mut self, began: Instant, answered: bool) {
        let second = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        self.requests += 1;
        match answered {
            true => self.seconds[second].answered += 1,
            false => self.seconds[second].failed += 1,
        }
    }

    /// Adds what another client was told.
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
        self.wrong.extend(other.wrong);
        self.unresolved.extend(other.unresolved);
        self.bugs.extend(other.bugs);
        self.requests += other.requests;
        let length = self.seconds.len().max(other.seconds.len());
        self.seconds.resize(length, Second::default());
        for (sum, second) in self.seconds.iter_mut().zip(other.seconds) {
            sum.answered += second.answered;
            sum.failed += second.failed;
        }
        self.answers.extend(other.answers);
        self.resolutions.extend(other.resolutions);
    }

    /// One row that answers two writes is one write too few.
    pub fn add<K: std::hash::Hash + Eq + std::fmt::Display + Copy, V>(
        &mut self,
        what: &str,
        rows: impl Fn(&mut Records) -> &mut HashMap<K, V>,
        more: impl IntoIterator<Item = (K, V)>,
    ) {
        for (id, row) in more {
            if rows(self).insert(id, row).is_some() {
                self.wrong.push(format!("{what} {id} is the answer to two writes"));
            }
        }
    }

    /// What an answer lacks to be the row that was asked for.
    pub fn must_be(&mut self, right: bool, what: &str, answer: &Value) {
        if !right {
            self.wrong.push(format!("{what} was answered by {answer}"));
        }
    }
}
