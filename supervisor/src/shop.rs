//! A shop: the nodes that run in this process, from their start to their end in good order.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use shop_actors::Metrics;
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Users;
use shop_http::{self as http, Keys, Limits, Peers, Shutdown};
use shop_messaging::{Broker, Bus, Rabbit, RabbitConfig};
use shop_persistence::users::{Email, NewUser, Role, Username};
use shop_persistence::{Database, DatabaseServer, InvalidValue, Schema};
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry};
use shop_runtime::{HandlerResult, Service, now};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Listen};
use crate::embedded::{Home, Options, Postgres};
use crate::tree;
use shop_runtime::{Child, GRACE, RestartIntensity, RestartPolicy, Root, Sampler, Strategy};

/// Which node of a shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Node {
    /// Users, and who may do what.
    Auth,
    /// Categories, products and their stock.
    Catalog,
    /// Orders.
    Order,
}

impl Node {
    /// All three, in the order in which they are started.
    pub const ALL: [Node; 3] = [Node::Auth, Node::Catalog, Node::Order];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Node::Auth => "auth",
            Node::Catalog => "catalog",
            Node::Order => "order",
        }
    }

    pub(crate) fn schema(self) -> Schema {
        match self {
            Node::Auth => Schema::Auth,
            Node::Catalog => Schema::Catalog,
            Node::Order => Schema::Order,
        }
    }

    fn listen(self, config: &Config) -> &Listen {
        match self {
            Node::Auth => &config.auth.http,
            Node::Catalog => &config.catalog.http,
            Node::Order => &config.order.http,
        }
    }

    /// Where its database is, when it is not the embedded one.
    pub fn database(self, config: &Config) -> &config::Database {
        match self {
            Node::Auth => &config.auth.database,
            Node::Catalog => &config.catalog.database,
            Node::Order => &config.order.database,
        }
    }

    fn owners(self, config: &Config) -> usize {
        match self {
            Node::Auth => config.auth.owners,
            Node::Catalog => config.catalog.owners,
            Node::Order => config.order.owners,
        }
    }
}

/// A shop that runs.
#[derive(Debug)]
pub struct Shop {
    root: Root,
    shutdown: Shutdown,
    databases: Vec<Database>,
    /// Where each node listens.
    pub addresses: Vec<(Node, SocketAddr)>,
    /// Where the embedded PostgreSQL keeps its data.
    pub home: Option<Home>,
    /// The password that was made up for the first administrator, at the first start.
    pub made_up_password: Option<SecretString>,
    /// The bus that joins the nodes, when it is the embedded one.
    pub bus: Option<Bus>,
    /// All that is measured of its actors.
    pub registry: ActorRegistry,
}

impl Shop {
    /// Starts these nodes. When it returns, they answer.
    ///
    /// # Errors
    /// What stands in the way, with what to do about it: a port that is taken, a database that refuses, a wrong key.
    pub async fn start(config: &Config, nodes: &[Node]) -> anyhow::Result<Shop> {
        ensure!(
            nodes.len() == Node::ALL.len() || !config.embedded.broker,
            "one node alone needs a broker that the others reach too: set embedded.broker = false \
             (SHOP__EMBEDDED__BROKER=false) and rabbitmq.*, or run all nodes in one process (shop run)"
        );
        let listeners = nodes
            .iter()
            .map(|node| Ok((*node, bind(*node, node.listen(config))?)))
            .collect::<anyhow::Result<Vec<(Node, TcpListener)>>>()?;
        let addresses = listeners
            .iter()
            .map(|(node, listener)| Ok((*node, listener.local_addr()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;

        let home = match config.embedded.postgres {
            true => Some(Home::choose(&config.embedded.directory)?),
            false => None,
        };
        let embedded = match &home {
            Some(home) => Some(EmbeddedPostgres::start(config, home).await?),
            None => None,
        };
        let keys = keys(config, home.as_ref())?;
        let broker = broker(config, nodes);
        let bus = match &broker {
            Broker::Bus(bus) => Some(bus.clone()),
            Broker::Rabbit(_) => None,
        };
        let shutdown = Shutdown::default();
        let urls = Node::ALL.map(|node| url(node, config, &addresses));
        let members =
            if config.cluster.peers.is_empty() { &urls[..] } else { &config.cluster.peers };
        let cluster_of = |auth_url: &str| {
            http::Cluster::new(members, auth_url).map_err(|why| anyhow!("cluster.peers: {why}"))
        };
        let [auth_url, catalog_url, order_url] = &urls;
        let registry = ActorRegistry::with_counting("shop", config.telemetry.metrics);
        let policy = policy(config);
        let (process, started_at) = (uuid::Uuid::new_v4(), now());

        // All of them before anything is written to one.
        let mut databases = vec![];
        for node in nodes {
            let cluster = cluster(config, *node, embedded.as_ref());
            databases.push(open(&cluster, *node, config).await?);
        }
        let mut branches: Vec<Child> = vec![];
        let mut made_up_password = None;
        for ((node, listener), database) in listeners.into_iter().zip(databases.clone()) {
            let auth_url = match node {
                Node::Catalog if !config.catalog.auth_url.is_empty() => &config.catalog.auth_url,
                Node::Order if !config.order.auth_url.is_empty() => &config.order.auth_url,
                _ => auth_url,
            };
            let place = registry.node(node.name());
            let parts = tree::Node {
                name: node.name(),
                process,
                started_at,
                registry: place.clone(),
                policy,
                database,
                schema: node.schema(),
                broker: broker.clone(),
                prefetch: config.rabbitmq.prefetch,
                max_attempts: config.rabbitmq.max_attempts,
                listener,
                shutdown: shutdown.clone(),
                keys: keys.clone(),
                auth_url: auth_url.clone(),
                peers: Peers::new(
                    node.name(),
                    &keys.node_tokens,
                    auth_url,
                    catalog_url,
                    order_url,
                )?,
                cluster: cluster_of(auth_url)?,
                verified_for: Duration::from_secs(config.jwt.verified_for_seconds.into()),
                answer_retention: Duration::from_secs(config.idempotency.kept_for_seconds.into()),
                owners: node.owners(config),
                mailboxes: config.mailboxes,
                answer_timeout: Duration::from_millis(config.actors.answer_timeout_ms),
                limits: Limits {
                    body_bytes: config.http.body_limit_bytes,
                    in_flight: config.http.in_flight,
                },
                metrics: Metrics::new(node.name(), config.telemetry.metrics)?,
            };
            branches.push(match node {
                Node::Auth => {
                    let threads = std::thread::available_parallelism().map_or(1, usize::from);
                    let cost = config.auth.bcrypt_cost;
                    let waiting = config.mailboxes.passwords;
                    let passwords = Passwords::start(&place, threads, cost, waiting)?;
                    made_up_password =
                        first_admin(&config.auth.admin, &parts.database, &passwords).await?;
                    branch(&place, policy, move || tree::auth(&parts, &passwords))
                }
                Node::Catalog => branch(&place, policy, move || tree::catalog(&parts)),
                Node::Order => branch(&place, policy, move || tree::order(&parts)),
            });
        }
        // Started first, and ended last: what the nodes stand on.
        let service = |name| registry.branch(name).actor_metrics(ActorKind::Service, None, 1);
        let sampler = Sampler(registry.clone());
        let open = Databases(databases.clone());
        let mut children = vec![];
        if let Some(embedded) = embedded {
            let postgres = Child::service(&service("postgres"), 3 * GRACE, embedded);
            children.push(postgres.restart_only());
        }
        children.push(Child::service(&service("databases"), GRACE, open).uncontrolled());
        children.push(Child::service(&service("inspector"), GRACE, sampler).uncontrolled());
        children.extend(branches);
        let root = Root::start(&registry, policy, children)
            .await
            .map_err(|error| anyhow!("the actors did not start: {error}"))?;
        Ok(Shop { root, shutdown, databases, addresses, home, made_up_password, bus, registry })
    }

    /// Where this node listens.
    pub fn address(&self, node: Node) -> Option<SocketAddr> {
        self.addresses.iter().find(|(other, _)| *other == node).map(|(_, address)| *address)
    }

    /// Resolves when the shop has ended by itself: something died too often to go on. Cancel safe.
    pub async fn ended(&mut self) {
        self.root.ended().await;
    }

    /// Ends in good order: takes no more requests, answers those in flight, relays what is committed for at most
    /// 10 s, then stops the actors, and the embedded PostgreSQL last. What could not be relayed stays in the outbox:
    /// says whether that is nothing.
    pub async fn stop(self) -> bool {
        if tokio::time::timeout(GRACE, self.shutdown.close()).await.is_err() {
            tracing::warn!("requests that did not end in time are cut off");
        }
        let relayed = async {
            for database in &self.databases {
                database.relayed().await?;
            }
            Ok::<_, shop_persistence::Error>(())
        };
        // When all has ended by itself, nobody is left to relay.
        let patience = if self.root.has_ended() { Duration::ZERO } else { GRACE };
        let relayed = matches!(tokio::time::timeout(patience, relayed).await, Ok(Ok(())));
        if !relayed {
            tracing::warn!(
                "not every event could be relayed; the outbox keeps them for the next start"
            );
        }
        self.root.stop().await;
        relayed
    }
}

/// Keeps the databases open for the nodes, and closes them after these have ended and before PostgreSQL does.
#[derive(Clone, Debug)]
struct Databases(Vec<Database>);

impl Service for Databases {
    async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        stop.cancelled().await;
        for database in &self.0 {
            database.close().await;
        }
        Ok(())
    }
}

/// A node's branch of the tree.
fn branch(
    place: &ActorRegistry,
    policy: RestartPolicy,
    children: impl Fn() -> anyhow::Result<Vec<Child>> + Send + Sync + 'static,
) -> Child {
    Child::supervisor(place, Strategy::OneForOne, policy, move || children().map_err(Into::into))
}

/// When actors are started again, as the configuration says.
pub(crate) fn policy(config: &Config) -> RestartPolicy {
    let supervision = &config.supervision;
    RestartPolicy {
        min_backoff: Duration::from_millis(supervision.first_wait_ms),
        max_backoff: Duration::from_millis(supervision.longest_wait_ms),
        actors: RestartIntensity {
            max_restarts: supervision.actor_deaths,
            window: Duration::from_secs(supervision.actor_window_seconds),
        },
        supervisors: RestartIntensity {
            max_restarts: supervision.branch_deaths,
            window: Duration::from_secs(supervision.branch_window_seconds),
        },
    }
}

fn bind(node: Node, Listen { host, port }: &Listen) -> anyhow::Result<TcpListener> {
    let name = node.name();
    TcpListener::bind((host.as_str(), *port)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow!(
            "{host}:{port} is taken: end what listens there, or set {name}.http.port (SHOP__{}__HTTP__PORT)",
            name.to_uppercase()
        ),
        _ => anyhow!("cannot listen at {host}:{port} ({name}.http.host, {name}.http.port): {error}"),
    })
}

fn keys(config: &Config, home: Option<&Home>) -> anyhow::Result<Keys> {
    let secret = match home {
        Some(home) if config.jwt.secret_key.expose_secret().is_empty() => home.secret()?,
        _ => config.jwt.secret_key.clone(),
    };
    let algorithm = match config.jwt.algorithm {
        config::Algorithm::HS256 => http::Algorithm::HS256,
        config::Algorithm::HS384 => http::Algorithm::HS384,
        config::Algorithm::HS512 => http::Algorithm::HS512,
    };
    let lifetime = Duration::from_secs(u64::from(config.jwt.access_token_expire_minutes) * 60);
    Ok(Keys::new(algorithm, secret.expose_secret().as_bytes(), lifetime)?)
}

fn broker(config: &Config, nodes: &[Node]) -> Broker {
    let rabbitmq = &config.rabbitmq;
    if config.embedded.broker {
        return Broker::Bus(Bus::new(rabbitmq.delivery_limit));
    }
    let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
    Broker::Rabbit(Rabbit::new(RabbitConfig {
        host: rabbitmq.host.clone(),
        port: rabbitmq.port,
        user: rabbitmq.user.clone(),
        password: rabbitmq.password.clone(),
        vhost: rabbitmq.vhost.clone(),
        prefix: rabbitmq.prefix.clone(),
        delivery_limit: rabbitmq.delivery_limit,
        connection_name: format!("shop {}", names.join(" ")),
    }))
}

/// Where a node is: where the configuration says, else in this process, else where it would listen by this configuration.
fn url(node: Node, config: &Config, addresses: &[(Node, SocketAddr)]) -> String {
    let said = match node {
        Node::Auth => &config.cluster.auth_url,
        Node::Catalog => &config.cluster.catalog_url,
        Node::Order => &config.cluster.order_url,
    };
    if !said.is_empty() {
        return said.clone();
    }
    let here = addresses.iter().find(|(other, _)| *other == node).map(|(_, address)| *address);
    let (host, port) = match here {
        Some(address) => (address.ip().to_string(), address.port()),
        None => (node.listen(config).host.clone(), node.listen(config).port),
    };
    match host.as_str() {
        "0.0.0.0" => format!("http://127.0.0.1:{port}"),
        "::" => format!("http://[::1]:{port}"),
        host if host.contains(':') => format!("http://[{host}]:{port}"),
        host => format!("http://{host}:{port}"),
    }
}

pub(crate) fn cluster(
    config: &Config,
    node: Node,
    embedded: Option<&EmbeddedPostgres>,
) -> DatabaseServer {
    let database = node.database(config);
    let (echo, connections) = (database.echo, database.connections);
    match embedded {
        Some(embedded) => DatabaseServer { echo, connections, ..embedded.cluster.clone() },
        None => DatabaseServer {
            host: database.host.clone(),
            port: database.port,
            user: database.user.clone(),
            password: database.password.clone(),
            echo,
            connections,
        },
    }
}

/// Opens a node's database, or says why it cannot be and which keys say where it is.
pub(crate) async fn open(
    cluster: &DatabaseServer,
    node: Node,
    config: &Config,
) -> anyhow::Result<Database> {
    let name = &node.database(config).name;
    Database::open(cluster, name, node.schema()).await.map_err(|error| {
        let DatabaseServer { host, port, user, .. } = cluster;
        anyhow!(
            "the database {name} at {host}:{port} does not let {user} in: {error} (see {}.database.*)",
            node.name()
        )
    })
}

/// Makes the first administrator, unless there is one. Returns the password if it was made up.
async fn first_admin(
    admin: &config::Admin,
    database: &Database,
    passwords: &Passwords,
) -> anyhow::Result<Option<SecretString>> {
    let mut users = Users::new(database);
    if users.has_admin().await? {
        return Ok(None);
    }
    let made_up = match admin.password.expose_secret() {
        "" => Some(SecretString::from(make_up_password())),
        _ => None,
    };
    let password = made_up.as_ref().unwrap_or(&admin.password).expose_secret().to_owned();
    let wrong = |key: &'static str| move |why: InvalidValue| anyhow!("auth.admin.{key} {why}");
    let password = Password::parse(password).map_err(wrong("password"))?;
    let new = NewUser {
        username: Username::parse(admin.username.clone()).map_err(wrong("username"))?,
        email: Email::parse(admin.email.clone()).map_err(wrong("email"))?,
        password_hash: passwords.hash(password).await?,
        role: Role::Admin,
    };
    let made = users.register_first_admin(new).await.context(
        "there is no administrator yet, and none could be made (auth.admin.*); \
         shop admin create makes one of any user",
    )?;
    Ok(made_up.filter(|_| made))
}

/// 20 characters that are not mistaken for each other: over 110 bits.
fn make_up_password() -> String {
    const CHARACTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let character = |_| char::from(CHARACTERS[rand::random_range(0..CHARACTERS.len())]);
    (0..20).map(character).collect()
}

/// The embedded PostgreSQL as a service: started before the tree, kept running by it.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedPostgres {
    home: Home,
    options: Options,
    pub(crate) cluster: DatabaseServer,
    /// The server that runs now.
    running: Arc<Mutex<Option<Postgres>>>,
}

impl EmbeddedPostgres {
    pub(crate) async fn start(config: &Config, home: &Home) -> anyhow::Result<EmbeddedPostgres> {
        let binaries = &config.embedded.postgres_binaries;
        let binaries = (!binaries.as_os_str().is_empty()).then(|| binaries.clone());
        let options = Options { binaries, ..Options::default() };
        let postgres = Postgres::start(&home.postgres(), options.clone()).await?;
        let cluster = EmbeddedPostgres::cluster(postgres.socket_folder(), postgres.port())?;
        let running = Arc::new(Mutex::new(Some(postgres)));
        Ok(EmbeddedPostgres { home: home.clone(), options, cluster, running })
    }

    /// How to reach an embedded PostgreSQL by its socket.
    pub(crate) fn cluster(socket_folder: &Path, port: u16) -> anyhow::Result<DatabaseServer> {
        let Some(host) = socket_folder.to_str() else {
            bail!("{} is not UTF-8: choose another data folder", socket_folder.display());
        };
        Ok(DatabaseServer {
            host: host.to_owned(),
            port,
            user: Postgres::USER.to_owned(),
            password: SecretString::default(),
            echo: false,
            connections: 1,
        })
    }

    pub(crate) async fn stop(self) {
        if let Some(postgres) = self.running.lock().await.take() {
            postgres.stop().await;
        }
    }
}

impl Service for EmbeddedPostgres {
    async fn run(self, _: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut postgres = match self.running.lock().await.take() {
            Some(postgres) => postgres,
            None => Postgres::start(&self.home.postgres(), self.options.clone()).await?,
        };
        tokio::select! {
            () = postgres.ended() => Err("PostgreSQL ended by itself".into()),
            () = stop.cancelled() => {
                postgres.stop().await;
                Ok(())
            }
        }
    }
}
