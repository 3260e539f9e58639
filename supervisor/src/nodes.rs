//! The nodes of a shop. Each node is one [`NodeSpec`] in a module of its own; configuration,
//! commands and the process walk over [`Node::ALL`].

mod actors;
mod auth;
mod broker;
mod catalog;
mod context;
mod order;

pub use actors::ActorFactory;
pub use context::{NodeContext, dead_letter_actor};

use std::net::SocketAddr;

use futures::future::BoxFuture;
use secrecy::SecretString;
use shop_actors::subscriptions::AnySubscription;
use shop_persistence::Schema;
use shop_runtime::Child;

use crate::config::{Config, Database, Listen};

/// A node of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Node {
    /// Users and tokens.
    Auth,
    /// Categories, products and their stock.
    Catalog,
    /// Orders.
    Order,
}

impl Node {
    /// All nodes, in the order in which they start.
    pub const ALL: [Node; 3] = [Node::Auth, Node::Catalog, Node::Order];

    pub(crate) fn spec(self) -> &'static NodeSpec {
        match self {
            Node::Auth => &auth::SPEC,
            Node::Catalog => &catalog::SPEC,
            Node::Order => &order::SPEC,
        }
    }

    /// Its name in paths, metrics, logs and configuration keys.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The settings of its database, which apply unless PostgreSQL is embedded.
    pub fn database(self, config: &Config) -> &Database {
        self.settings(config).database
    }

    /// Its settings.
    pub(crate) fn settings(self, config: &Config) -> NodeSettings<'_> {
        (self.spec().settings)(config)
    }

    /// Its URL for other nodes: as configured, else its address in this process, else the address
    /// at which it would listen with this configuration.
    pub(crate) fn url(self, config: &Config, addresses: &[(Node, SocketAddr)]) -> String {
        let settings = self.settings(config);
        if !settings.cluster_url.is_empty() {
            return settings.cluster_url.to_owned();
        }
        let local = addresses.iter().find(|(node, _)| *node == self).map(|(_, address)| *address);
        let (host, port) = match local {
            Some(address) => (address.ip().to_string(), address.port()),
            None => (settings.http.host.clone(), settings.http.port),
        };
        match host.as_str() {
            "0.0.0.0" => format!("http://127.0.0.1:{port}"),
            "::" => format!("http://[::1]:{port}"),
            host if host.contains(':') => format!("http://[{host}]:{port}"),
            host => format!("http://{host}:{port}"),
        }
    }
}

/// Everything that distinguishes a node from the others.
pub(crate) struct NodeSpec {
    /// Its name in paths, metrics, logs and configuration keys.
    pub name: &'static str,
    /// The tables of its database.
    pub schema: Schema,
    /// Whether it replicates tables of other nodes, so that `shop resync` applies to it.
    pub replicates: bool,
    /// Its part of the configuration.
    pub settings: fn(&Config) -> NodeSettings<'_>,
    /// Prepares the node, once per process.
    pub prepare: fn(NodeContext, &Config) -> BoxFuture<'_, anyhow::Result<PreparedNode>>,
    /// Its subscriptions and the actors that apply their events, for redriving dead letters while
    /// the node itself may not run.
    pub subscribers: fn(&ActorFactory) -> (Vec<AnySubscription>, Vec<Child>),
}

/// A node's part of the configuration.
pub(crate) struct NodeSettings<'a> {
    /// Number of actors that divide the node's main work.
    pub shards: usize,
    /// Its database, unless PostgreSQL is embedded.
    pub database: &'a Database,
    /// The address at which it listens.
    pub http: &'a Listen,
    /// Its URL for other nodes; empty if not configured.
    pub cluster_url: &'a str,
    /// The auth node's URL, if configured for this node alone; else empty.
    pub auth_url: &'a str,
}

/// A node that is ready to start.
pub(crate) struct PreparedNode {
    /// Creates its actors; called again when its branch restarts.
    pub children: Box<dyn Fn() -> anyhow::Result<Vec<Child>> + Send + Sync>,
    /// The password that was generated for the first administrator, if this node created one.
    pub generated_password: Option<SecretString>,
}

impl PreparedNode {
    fn new(
        children: impl Fn() -> anyhow::Result<Vec<Child>> + Send + Sync + 'static,
    ) -> PreparedNode {
        PreparedNode { children: Box::new(children), generated_password: None }
    }
}
