//! A shop: the nodes that run in this process, from start to graceful shutdown.

pub(crate) mod databases;
mod setup;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{anyhow, ensure};
use secrecy::SecretString;
use shop_actors::Metrics;
use shop_http::{self as http, Keys, Limits, Peers, Shutdown};
use shop_messaging::{Broker, Bus};
use shop_persistence::Database;
use shop_runtime::registry::{ActorKind, ActorRegistry};
use shop_runtime::{Child, GRACE, Root, Sampler, Strategy, now};
use uuid::Uuid;

use crate::config::Config;
use crate::embedded::{DataDirectory, EmbeddedPostgres};
use crate::nodes::{ActorFactory, Node, NodeContext, PreparedNode};
use databases::Databases;

pub(crate) use setup::restart_policy;

/// A running shop.
#[derive(Debug)]
pub struct Shop {
    root: Root,
    shutdown: Shutdown,
    databases: Vec<Database>,
    /// The address of each node's HTTP server.
    pub addresses: Vec<(Node, SocketAddr)>,
    /// The directory of the embedded PostgreSQL, if it is used.
    pub data_directory: Option<DataDirectory>,
    /// The password that was generated for the first administrator, at the first start.
    pub generated_password: Option<SecretString>,
    /// The in-process bus, if it is used.
    pub bus: Option<Bus>,
    /// Metrics of all actors.
    pub registry: ActorRegistry,
}

impl Shop {
    /// Starts these nodes. They serve requests when it returns.
    ///
    /// # Errors
    /// What prevents the start and what to do about it: a port in use, a database that refuses the
    /// connection, an invalid key.
    pub async fn start(config: &Config, nodes: &[Node]) -> anyhow::Result<Shop> {
        ensure!(
            nodes.len() == Node::ALL.len() || !config.embedded.broker,
            "a single node needs a broker that the others reach too: set embedded.broker = false \
             (SHOP__EMBEDDED__BROKER=false) and rabbitmq.*, or run all nodes in one process (shop run)"
        );
        let listeners = setup::bind(config, nodes)?;
        let addresses = listeners
            .iter()
            .map(|(node, listener)| Ok((*node, listener.local_addr()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let data_directory = if config.embedded.postgres {
            Some(DataDirectory::choose(&config.embedded.directory)?)
        } else {
            None
        };
        let postgres = match &data_directory {
            Some(directory) => Some(EmbeddedPostgres::start(config, directory).await?),
            None => None,
        };
        let process = Process {
            config,
            addresses: &addresses,
            id: Uuid::new_v4(),
            registry: ActorRegistry::with_counting("shop", config.telemetry.metrics),
            broker: setup::broker(config, nodes),
            keys: setup::keys(config, data_directory.as_ref())?,
            shutdown: Shutdown::default(),
        };
        // Open every database before the first write to any of them.
        let databases = databases::open_all(config, nodes, postgres.as_ref()).await?;
        let mut branches = vec![];
        let mut generated_password = None;
        for ((node, listener), database) in listeners.into_iter().zip(&databases) {
            let prepared = process.prepare(node, listener, database).await?;
            generated_password = generated_password.or(prepared.generated_password);
            branches.push(process.branch(node, prepared.children));
        }
        let children = process.children(postgres, &databases, branches);
        let Process { registry, broker, shutdown, .. } = process;
        let root = Root::start(&registry, restart_policy(config), children)
            .await
            .map_err(|error| anyhow!("the actors did not start: {error}"))?;
        let bus = match broker {
            Broker::Bus(bus) => Some(bus),
            Broker::Rabbit(_) => None,
        };
        Ok(Shop {
            root,
            shutdown,
            databases,
            addresses,
            data_directory,
            generated_password,
            bus,
            registry,
        })
    }

    /// The address of this node's HTTP server.
    pub fn address(&self, node: Node) -> Option<SocketAddr> {
        self.addresses.iter().find(|(other, _)| *other == node).map(|(_, address)| *address)
    }

    /// Resolves when the shop has stopped by itself, because an actor failed too often.
    /// Cancellation safe.
    pub async fn ended(&mut self) {
        self.root.ended().await;
    }

    /// Shuts down gracefully: refuses new requests, answers those in flight, relays committed events
    /// for at most [`GRACE`], then stops the actors, and the embedded PostgreSQL last. Returns
    /// whether every event was relayed; the others stay in the outbox.
    pub async fn stop(self) -> bool {
        if tokio::time::timeout(GRACE, self.shutdown.close()).await.is_err() {
            tracing::warn!("closing connections whose requests did not finish in time");
        }
        let relayed = async {
            for database in &self.databases {
                database.relayed().await?;
            }
            Ok::<_, shop_actors::Error>(())
        };
        // After the actors have ended, no relay is left to wait for.
        let timeout = if self.root.has_ended() { Duration::ZERO } else { GRACE };
        let relayed = matches!(tokio::time::timeout(timeout, relayed).await, Ok(Ok(())));
        if !relayed {
            tracing::warn!(
                "some events are not relayed yet; they stay in the outbox until the next start"
            );
        }
        self.root.stop().await;
        relayed
    }
}

/// What the nodes of one process share.
struct Process<'a> {
    config: &'a Config,
    addresses: &'a [(Node, SocketAddr)],
    id: Uuid,
    registry: ActorRegistry,
    broker: Broker,
    keys: Keys,
    shutdown: Shutdown,
}

impl Process<'_> {
    async fn prepare(
        &self,
        node: Node,
        listener: TcpListener,
        database: &Database,
    ) -> anyhow::Result<PreparedNode> {
        let config = self.config;
        let (spec, settings) = (node.spec(), node.settings(config));
        let [cluster_auth_url, catalog_url, order_url] =
            Node::ALL.map(|node| node.url(config, self.addresses));
        let auth_url = match settings.auth_url {
            "" => cluster_auth_url,
            url => url.to_owned(),
        };
        let context = NodeContext {
            name: spec.name,
            actors: ActorFactory {
                registry: self.registry.node(spec.name),
                database: database.clone(),
                reply_timeout: Duration::from_millis(config.actors.reply_timeout_ms),
            },
            schema: spec.schema,
            process: self.id,
            started_at: now(),
            policy: restart_policy(config),
            broker: self.broker.clone(),
            prefetch: config.rabbitmq.prefetch,
            max_attempts: config.rabbitmq.max_attempts,
            listener,
            shutdown: self.shutdown.clone(),
            keys: self.keys.clone(),
            peers: Peers::new(
                spec.name,
                &self.keys.node_tokens,
                &auth_url,
                &catalog_url,
                &order_url,
            )?,
            cluster: self.cluster(&auth_url)?,
            auth_url,
            verification_cache_time: Duration::from_secs(
                config.jwt.verification_cache_seconds.into(),
            ),
            idempotency_retention: Duration::from_secs(config.idempotency.retention_seconds.into()),
            shards: settings.shards,
            mailboxes: config.mailboxes,
            limits: Limits {
                body_bytes: config.http.max_body_bytes,
                in_flight: config.http.max_in_flight,
            },
            metrics: Metrics::new(spec.name, config.telemetry.metrics)?,
        };
        (spec.prepare)(context, config).await
    }

    /// The nodes and replicas that administrators see together.
    fn cluster(&self, auth_url: &str) -> anyhow::Result<http::Cluster> {
        let members = match self.config.cluster.peers.as_slice() {
            [] => Node::ALL.map(|node| node.url(self.config, self.addresses)).into(),
            peers => peers.to_vec(),
        };
        http::Cluster::new(&members, auth_url).map_err(|why| anyhow!("cluster.peers: {why}"))
    }

    /// The supervisor of a node's actors.
    fn branch(
        &self,
        node: Node,
        children: Box<dyn Fn() -> anyhow::Result<Vec<Child>> + Send + Sync>,
    ) -> Child {
        let registry = self.registry.node(node.name());
        let policy = restart_policy(self.config);
        Child::supervisor(&registry, Strategy::OneForOne, policy, move || {
            children().map_err(Into::into)
        })
    }

    /// The children of the root: first the services that the nodes depend on, which therefore stop
    /// last, then the nodes.
    fn children(
        &self,
        postgres: Option<EmbeddedPostgres>,
        databases: &[Database],
        nodes: Vec<Child>,
    ) -> Vec<Child> {
        let metrics = |name| self.registry.branch(name).actor_metrics(ActorKind::Service, None, 1);
        let mut children = vec![];
        if let Some(postgres) = postgres {
            let service = Child::service(&metrics("postgres"), 3 * GRACE, postgres);
            children.push(service.restart_only());
        }
        let databases = Databases(databases.to_vec());
        children.push(Child::service(&metrics("databases"), GRACE, databases).uncontrolled());
        let sampler = Sampler(self.registry.clone());
        children.push(Child::service(&metrics("inspector"), GRACE, sampler).uncontrolled());
        children.extend(nodes);
        children
    }
}
