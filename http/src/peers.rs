//! The other nodes' snapshots, read over HTTP with a node token.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use shop_persistence::catalog::ProductId;
use shop_persistence::snapshot::{Snapshot, Stock, Summary, UserRecord};
use shop_persistence::stock::Movement;
use shop_persistence::users::UserId;
use shop_persistence::{Error, Result};
use uuid::Uuid;

use crate::client::send;
use crate::keys::NodeTokenKey;

/// How long a connection to another node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a page may take: a little longer than the other node's database may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(65);

/// The three nodes.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The auth node.
    pub auth: Peer,
    /// The catalog node.
    pub catalog: Peer,
    /// The order node.
    pub order: Peer,
}

impl Peers {
    /// The nodes at these addresses. `local` is the name of the node that reads.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(
        local: &'static str,
        tokens: &Arc<NodeTokenKey>,
        auth_url: &str,
        catalog_url: &str,
        order_url: &str,
    ) -> reqwest::Result<Peers> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PAGE_TIMEOUT)
            .no_proxy()
            .build()?;
        let peer = |name, url: &str| Peer {
            name,
            local,
            url: url.trim_end_matches('/').to_owned(),
            tokens: tokens.clone(),
            client: client.clone(),
        };
        Ok(Peers {
            auth: peer("auth", auth_url),
            catalog: peer("catalog", catalog_url),
            order: peer("order", order_url),
        })
    }
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    name: &'static str,
    local: &'static str,
    url: String,
    tokens: Arc<NodeTokenKey>,
    client: reqwest::Client,
}

impl Peer {
    async fn read<T: DeserializeOwned>(&self, page: String) -> Result<T> {
        let name = self.name;
        let token = self.tokens.sign(self.local).map_err(|error| Error::Internal(error.into()))?;
        let request = self.client.get(format!("{}/admin/snapshot/{page}", self.url));
        let path = page.split('?').next().unwrap_or_default();
        let span = format!("GET /admin/snapshot/{path}");
        let response = match send(request.bearer_auth(token), span).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, node = name, "a node does not respond");
                return Err(Error::Unavailable(format!("the {name} node does not respond").into()));
            }
        };
        let problem = match response.status().as_u16() {
            200 => match response.json().await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    tracing::debug!(%error, node = name, "a node's response cannot be read");
                    "sent an invalid response or closed the connection".to_owned()
                }
            },
            401 | 403 => {
                "does not accept this node's token: is jwt.secret_key the same there?".to_owned()
            }
            404 => format!(
                "has no snapshot: is cluster.{name}_url correct, and does the node have this version?"
            ),
            status => format!("does not send its snapshot: it responds {status}"),
        };
        Err(Error::Unavailable(format!("the {name} node {problem}").into()))
    }
}

impl Snapshot for Peer {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        self.read(format!("users?after={after}&limit={limit}")).await
    }

    async fn products(&self, after: ProductId, limit: i64, before: Uuid) -> Result<Vec<Stock>> {
        self.read(format!("products?after={after}&limit={limit}&before={before}")).await
    }

    async fn movements(&self, after: Uuid, limit: i64) -> Result<Vec<Movement>> {
        self.read(format!("movements?after={after}&limit={limit}")).await
    }

    async fn summary(&self) -> Result<Summary> {
        self.read("summary".to_owned()).await
    }
}
