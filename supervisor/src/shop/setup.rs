//! Parts of a process, made from the configuration.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::anyhow;
use secrecy::ExposeSecret;
use shop_http::{self as http, Keys};
use shop_messaging::{Broker, Bus, Rabbit, RabbitConfig};
use shop_runtime::{RestartIntensity, RestartPolicy};

use crate::config::{self, Config, Listen};
use crate::embedded::DataDirectory;
use crate::nodes::Node;

/// Binds the address of each node.
pub fn bind(config: &Config, nodes: &[Node]) -> anyhow::Result<Vec<(Node, TcpListener)>> {
    nodes.iter().map(|node| Ok((*node, bind_one(*node, node.settings(config).http)?))).collect()
}

fn bind_one(node: Node, Listen { host, port }: &Listen) -> anyhow::Result<TcpListener> {
    let name = node.name();
    TcpListener::bind((host.as_str(), *port)).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "{host}:{port} is in use: stop the process that listens on it, or set {name}.http.port \
             (SHOP__{}__HTTP__PORT)",
            name.to_uppercase()
        ),
        _ => {
            anyhow!("cannot listen on {host}:{port} ({name}.http.host, {name}.http.port): {error}")
        }
    })
}

/// The keys of tokens and fingerprints: derived from the configured secret, or from the generated
/// one in the data directory.
pub fn keys(config: &Config, directory: Option<&DataDirectory>) -> anyhow::Result<Keys> {
    let secret = match directory {
        Some(directory) if config.jwt.secret_key.expose_secret().is_empty() => {
            directory.secret()?
        }
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

/// The broker that connects the nodes.
pub fn broker(config: &Config, nodes: &[Node]) -> Broker {
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

/// When actors and branches restart, and when they give up.
pub(crate) fn restart_policy(config: &Config) -> RestartPolicy {
    let supervision = &config.supervision;
    RestartPolicy {
        min_backoff: Duration::from_millis(supervision.restart_backoff_min_ms),
        max_backoff: Duration::from_millis(supervision.restart_backoff_max_ms),
        actors: RestartIntensity {
            max_restarts: supervision.max_restarts,
            window: Duration::from_secs(supervision.restart_window_seconds),
        },
        supervisors: RestartIntensity {
            max_restarts: supervision.max_branch_restarts,
            window: Duration::from_secs(supervision.branch_restart_window_seconds),
        },
    }
}
