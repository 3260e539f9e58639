//! A request that is repeated until its outcome is known.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use shop_supervisor::Node;
use shop_tests::Client;

/// Timeout of one attempt.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// A request and the status that it must end with.
#[derive(Clone)]
pub struct Operation {
    pub client: Client,
    /// The idempotency key, the same for all attempts.
    pub key: Option<String>,
    pub method: Method,
    pub node: Node,
    pub path: String,
    /// `Value::Null` for a request without a body.
    pub body: Value,
    pub status: u16,
}

impl Operation {
    /// Sends the request once. Returns status and body, or `None` if the outcome is unknown or the
    /// response asks for a retry.
    pub async fn attempt(&self) -> Option<(u16, String)> {
        let mut request = self.client.request(self.method.clone(), self.node, &self.path);
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if !self.body.is_null() {
            request = request.json(&self.body);
        }
        let response = request.timeout(REQUEST_TIMEOUT).send().await.ok()?;
        let retry = response.headers().contains_key("retry-after") || response.status() == 500;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        (!retry).then_some((status, text))
    }
}
