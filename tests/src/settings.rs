//! The configuration of the shop that a test starts.

use shop_messaging::{Broker, Rabbit, RabbitConfig};
use shop_supervisor::embedded::Postgres;
use shop_supervisor::{Config, Node};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::free_port;
use crate::postgres::PostgresServer;
use crate::rabbitmq::RabbitMq;
use crate::secrets::{PASSWORD, SECRET};
use crate::urls::Urls;

/// The broker that connects the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// The in-process bus.
    Bus,
    /// The RabbitMQ that all tests of the process share.
    RabbitMq,
}

/// The configuration of one test's shop, as environment variables. Databases, exchanges and queues
/// have names that no other test uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The prefix of the names of databases, exchanges and queues.
    pub prefix: String,
    /// Names and values of the environment variables.
    pub variables: Vec<(String, String)>,
    /// The number of replicas of every node.
    pub replicas: usize,
}

/// The number of replicas of every node: 1 unless `SHOP_TESTS_REPLICAS` is set.
fn replicas() -> usize {
    let replicas = std::env::var("SHOP_TESTS_REPLICAS").unwrap_or("1".into());
    replicas.parse().expect("SHOP_TESTS_REPLICAS is a number")
}

impl Settings {
    /// A shop with `SHOP_TESTS_REPLICAS` replicas of every node on the same databases. Several
    /// replicas are always connected by RabbitMQ.
    ///
    /// # Panics
    /// When PostgreSQL or RabbitMQ does not start.
    pub async fn new(broker: BrokerKind) -> Settings {
        match replicas() {
            1 => Settings::single_replica(broker).await,
            replicas => {
                Settings { replicas, ..Settings::single_replica(BrokerKind::RabbitMq).await }
            }
        }
    }

    /// A shop with one replica of every node, for a test of what a process knows about itself.
    ///
    /// # Panics
    /// When PostgreSQL or RabbitMQ does not start.
    pub async fn single_replica(broker: BrokerKind) -> Settings {
        let server = PostgresServer::shared().await.expect("a PostgreSQL for the tests").server();
        let prefix = format!("t{}_", Uuid::new_v4().simple());
        let mut settings = Settings { prefix: prefix.clone(), variables: vec![], replicas: 1 };
        let embedded_broker = (broker == BrokerKind::Bus).to_string();
        for (key, value) in [
            ("SHOP__EMBEDDED__POSTGRES", "false"),
            ("SHOP__EMBEDDED__BROKER", &embedded_broker),
            ("SHOP__JWT__SECRET_KEY", SECRET),
            ("SHOP__AUTH__BCRYPT_COST", "4"),
            ("SHOP__AUTH__ADMIN__PASSWORD", PASSWORD),
            ("SHOP__RABBITMQ__PREFIX", &prefix),
        ] {
            settings.set(key, value);
        }
        if broker == BrokerKind::RabbitMq {
            let port = RabbitMq::shared().await.expect("a RabbitMQ for the tests").port();
            settings.set("SHOP__RABBITMQ__PORT", &port.to_string());
        }
        for node in Node::ALL {
            settings.set_of(node, "HTTP__PORT", "0");
            settings.set_of(node, "DATABASE__HOST", "127.0.0.1");
            settings.set_of(node, "DATABASE__PORT", &server.port().to_string());
            settings.set_of(node, "DATABASE__USER", Postgres::USER);
            settings.set_of(node, "DATABASE__NAME", &format!("{prefix}{}", node.name()));
        }
        settings
    }

    /// A shop whose nodes keep their ports when they are started again, and their URLs.
    ///
    /// # Panics
    /// When PostgreSQL or RabbitMQ does not start, or no port is free.
    pub async fn with_fixed_ports(broker: BrokerKind) -> (Settings, Urls) {
        let mut settings = Settings::new(broker).await;
        let urls = Urls::new(|node| {
            let port = free_port();
            settings.set_of(node, "HTTP__PORT", &port.to_string());
            format!("http://127.0.0.1:{port}")
        });
        (settings, urls)
    }

    /// Sets a variable.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(known, _)| known != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Sets a node's variable: `DATABASE__PORT` is `SHOP__AUTH__DATABASE__PORT` of the auth node.
    pub fn set_of(&mut self, node: Node, key: &str, value: &str) {
        self.set(&variable(node, key), value);
    }

    /// The configuration that the shop reads from the variables.
    ///
    /// # Panics
    /// When it is invalid.
    pub fn config(&self) -> Config {
        Config::read(None, self.variables.clone()).expect("a valid configuration")
    }

    /// A client of the RabbitMQ at `port` that speaks as the shop does and is not part of it.
    pub fn foreign_broker(&self, port: u16) -> Broker {
        Broker::Rabbit(Rabbit::new(RabbitConfig {
            host: "127.0.0.1".into(),
            port,
            user: "guest".into(),
            password: "guest".to_owned().into(),
            vhost: "/".into(),
            prefix: self.prefix.clone(),
            delivery_limit: self.config().rabbitmq.delivery_limit,
            connection_name: "a test".into(),
        }))
    }

    /// A connection of the test's own to a node's database.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn database(&self, node: Node) -> PgConnection {
        let name = node.database(&self.config()).name.clone();
        self.connect(&name).await
    }

    /// A connection of the test's own to any database of the server.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn connect(&self, name: &str) -> PgConnection {
        let config = self.config();
        let server = Node::Order.database(&config);
        let options = PgConnectOptions::new_without_pgpass()
            .host(&server.host)
            .port(server.port)
            .username(&server.user)
            .database(name);
        PgConnection::connect_with(&options).await.expect("a connection to PostgreSQL")
    }
}

/// The environment variable of a node's configuration key.
pub fn variable(node: Node, key: &str) -> String {
    format!("SHOP__{}__{key}", node.name().to_uppercase())
}
