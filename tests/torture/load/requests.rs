//! Requests that are repeated until the response is definite.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shop_runtime::Backoff;
use shop_supervisor::Node;
use shop_tests::PASSWORD;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Client, RESOLUTION_TIMEOUT};

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
    User,
    Admin,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    pub caller: Caller,
    pub method: Method,
    pub node: Node,
    pub path: String,
    pub body: Option<Value>,
    /// The idempotency key; every write has one.
    pub key: Option<Uuid>,
}

/// A definite response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: Value,
    pub replayed: bool,
}

/// The outcome of one attempt.
enum Outcome {
    Definite(Response),
    /// The token is not valid, or no longer.
    Unauthenticated,
    /// To be repeated: the request may have been executed.
    Unknown,
    /// To be repeated: the request was not executed, or is in flight.
    NotExecuted,
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}

impl Client {
    /// Sends a write. Returns the response's body, or `None` if the write was refused.
    pub async fn write(
        &mut self,
        caller: Caller,
        method: Method,
        node: Node,
        path: String,
        body: Option<Value>,
    ) -> Option<Value> {
        let request = Request { caller, method, node, path, body, key: Some(Uuid::new_v4()) };
        let response = self.resolve(&request).await?;
        if response.replayed {
            self.records.writes.replayed += 1;
        }
        if response.status < 300 {
            self.records.writes.acknowledged += 1;
            return Some(response.body);
        }
        self.records.writes.refused += 1;
        // Out of stock, or an event has not arrived. No other refusal is correct for these requests.
        let expected = matches!((request.node, response.status), (Node::Order, 409 | 422));
        let sent = format!("{} {}", request.method, request.path);
        self.records.check(expected, &sent, &response.body);
        None
    }

    /// Repeats a request until the response is definite. `None` if that takes too long.
    pub async fn resolve(&mut self, request: &Request) -> Option<Response> {
        let mut backoff = backoff();
        let (since, mut attempts, mut unknown) = (Instant::now(), 0, false);
        let response = loop {
            if Instant::now() > self.load.end + RESOLUTION_TIMEOUT {
                break None;
            }
            let token = match request.caller {
                Caller::Anonymous => None,
                Caller::User => self.user_token().await,
                Caller::Admin => self.admin_token().await,
            };
            if token.is_none() && request.caller != Caller::Anonymous {
                sleep(backoff.next_delay()).await;
                continue;
            }
            attempts += 1;
            match self.attempt(request, token.as_deref()).await {
                Outcome::Definite(response) => break Some(response),
                Outcome::Unauthenticated => self.discard(token).await,
                Outcome::Unknown => unknown = true,
                Outcome::NotExecuted => {}
            }
            sleep(backoff.next_delay()).await;
        };
        if request.key.is_some() {
            let writes = &mut self.records.writes;
            writes.unknown += u64::from(unknown);
            writes.retried += u64::from(attempts > 1);
            self.records.resolution_times.push(since.elapsed());
            if response.is_none() {
                let Request { method, path, body, key, .. } = request;
                let unresolved = format!("{method} {path} {body:?} {key:?}: {attempts} attempts");
                self.records.unresolved.push(unresolved);
            }
        }
        response
    }

    async fn attempt(&mut self, request: &Request, token: Option<&str>) -> Outcome {
        let since = Instant::now();
        let result = self.send(request, token).await;
        let failed = !matches!(result, Ok((..500, ..)));
        self.records.count(self.load.start, !failed);
        match result {
            Err(error) if error.is_connect() => Outcome::NotExecuted,
            Err(_) => Outcome::Unknown,
            Ok((401, ..)) => Outcome::Unauthenticated,
            Ok((408 | 429, ..)) | Ok((409, _, true, _)) => Outcome::NotExecuted,
            Ok((status @ 500.., _, _, body)) => {
                if status == 500 {
                    let text = String::from_utf8_lossy(&body);
                    let error = format!("{} {}: {text}", request.method, request.path);
                    self.records.internal_errors.push(error);
                }
                Outcome::Unknown
            }
            Ok((status, replayed, _, body)) => {
                self.records.latencies.push(since.elapsed());
                let body = serde_json::from_slice(&body).unwrap_or_default();
                Outcome::Definite(Response { status, body, replayed })
            }
        }
    }

    /// Sends a request once. Returns the status, whether the response is replayed, whether it has
    /// `Retry-After`, and the body.
    async fn send(
        &mut self,
        request: &Request,
        token: Option<&str>,
    ) -> reqwest::Result<(u16, bool, bool, Vec<u8>)> {
        self.attempts += 1;
        let index = Node::ALL.iter().position(|node| *node == request.node).expect("a known node");
        let urls = &self.load.urls[index];
        let url = format!("{}{}", urls[self.attempts % urls.len()], request.path);
        let mut builder = self.load.http.request(request.method.clone(), url);
        if let Some(token) = token {
            builder = builder.bearer_auth(token);
        }
        if let Some(key) = request.key {
            builder = builder.header("Idempotency-Key", key.to_string());
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        let response = builder.send().await?;
        let status = response.status().as_u16();
        let has = |name: &str| response.headers().contains_key(name);
        let (replayed, retry_after) = (has("idempotency-replayed"), has("retry-after"));
        Ok((status, replayed, retry_after, response.bytes().await?.to_vec()))
    }

    async fn user_token(&mut self) -> Option<String> {
        if self.token.is_none() {
            let user = self.user_id.and_then(|id| self.records.users.get(&id));
            let names = [user.map(|user| user.username.clone()), self.next_name.clone()];
            for name in names.into_iter().flatten() {
                self.token = self.log_in(name).await;
                if self.token.is_some() {
                    break;
                }
            }
        }
        self.token.clone()
    }

    /// The token that all clients share. The first client that finds it missing logs in.
    async fn admin_token(&mut self) -> Option<String> {
        let load = Arc::clone(&self.load);
        let mut token = load.admin_token.lock().await;
        if token.is_none() {
            *token = self.log_in("admin".to_owned()).await;
        }
        token.clone()
    }

    /// Discards an invalid token, so that its user logs in again.
    async fn discard(&mut self, token: Option<String>) {
        if self.token == token {
            self.token = None;
        }
        let mut admin_token = self.load.admin_token.lock().await;
        if *admin_token == token {
            *admin_token = None;
        }
    }

    /// Logs in. Returns the token, or `None` if there is no user of this name.
    async fn log_in(&mut self, username: String) -> Option<String> {
        let request = Request {
            caller: Caller::Anonymous,
            method: Method::POST,
            node: Node::Auth,
            path: "/api/v1/auth/login".to_owned(),
            body: Some(json!({"username": username, "password": PASSWORD})),
            key: None,
        };
        let mut backoff = backoff();
        while Instant::now() < self.load.end + RESOLUTION_TIMEOUT {
            match self.attempt(&request, None).await {
                Outcome::Definite(response) => {
                    return response.body["access_token"].as_str().map(str::to_owned);
                }
                Outcome::Unauthenticated => return None,
                Outcome::Unknown | Outcome::NotExecuted => sleep(backoff.next_delay()).await,
            }
        }
        None
    }
}
