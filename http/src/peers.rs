//! The other nodes, as one node asks them for their books.

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

/// How long another node may take to be there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take for a page: a little more than it gives its database.
const PATIENCE: Duration = Duration::from_secs(65);

/// The three nodes.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The auth node.
    pub auth: Peer,
    /// The catalog.
    pub catalog: Peer,
    /// The order node.
    pub order: Peer,
}

impl Peers {
    /// The nodes at these addresses, as the node `me` sees them.
    pub fn new(
        me: &'static str,
        tokens: &Arc<NodeTokenKey>,
        auth_url: &str,
        catalog_url: &str,
        order_url: &str,
    ) -> reqwest::Result<Peers> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
            .no_proxy()
            .build()?;
        let peer = |name, url: &str| Peer {
            name,
            me,
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
    me: &'static str,
    url: String,
    tokens: Arc<NodeTokenKey>,
    client: reqwest::Client,
}

impl Peer {
    async fn read<T: DeserializeOwned>(&self, book: String) -> Result<T> {
        let name = self.name;
        let token = self.tokens.sign(self.me)?;
        let request = self.client.get(format!("{}/admin/books/{book}", self.url));
        let span = format!("GET /admin/books/{}", book.split('?').next().unwrap_or_default());
        let answer = match send(request.bearer_auth(token), span).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, node = name, "a node does not answer");
                return Err(Error::Unavailable(format!("the {name} node is away").into()));
            }
        };
        let why = match answer.status().as_u16() {
            200 => match answer.json().await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    tracing::debug!(%error, node = name, "a node's answer cannot be read");
                    "sent what cannot be read, or broke off".to_owned()
                }
            },
            401 | 403 => "does not take our word: is jwt.secret_key the same there?".to_owned(),
            404 => {
                format!("has no books: is cluster.{name}_url right, and the node of this version?")
            }
            status => format!("does not show its books: it answers {status}"),
        };
        Err(Error::Unavailable(format!("the {name} node {why}").into()))
    }
}

impl Snapshot for Peer {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        self.read(format!("people?after={after}&limit={limit}")).await
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
