//! The configuration. The `config.toml` of the source tree contains every key with its default; a
//! file and environment variables override single keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use settings::{Origin, Settings};

mod settings;
#[cfg(test)]
mod tests;
mod validate;

const DEFAULTS: &str = include_str!("../../config.toml");
const ENVIRONMENT_PREFIX: &str = "SHOP__";

/// The whole configuration. `config.toml` explains each key.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Config {
    pub embedded: Embedded,
    pub jwt: Jwt,
    pub rabbitmq: Rabbitmq,
    pub actors: Actors,
    pub mailboxes: Mailboxes,
    pub supervision: Supervision,
    pub http: Http,
    pub idempotency: Idempotency,
    pub log: Log,
    pub telemetry: Telemetry,
    pub cluster: Cluster,
    pub auth: Auth,
    pub catalog: Node,
    pub order: Node,
    /// The source of each key's value, for error messages.
    #[serde(skip)]
    origins: BTreeMap<String, Origin>,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Embedded {
    pub postgres: bool,
    pub broker: bool,
    pub directory: PathBuf,
    pub postgres_binaries: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Jwt {
    pub secret_key: SecretString,
    pub algorithm: Algorithm,
    pub access_token_expire_minutes: u32,
    pub verification_cache_seconds: u32,
}

/// Algorithm that signs tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are those of RFC 7518")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Rabbitmq {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: SecretString,
    pub vhost: String,
    pub prefix: String,
    pub prefetch: u16,
    pub max_attempts: u32,
    pub delivery_limit: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Actors {
    pub reply_timeout_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Mailboxes {
    pub users: usize,
    pub catalog: usize,
    pub orders: usize,
    pub customers: usize,
    pub dead_letters: usize,
    pub audit: usize,
    pub health: usize,
    pub passwords: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Supervision {
    pub restart_backoff_min_ms: u64,
    pub restart_backoff_max_ms: u64,
    pub max_restarts: usize,
    pub restart_window_seconds: u64,
    pub max_branch_restarts: usize,
    pub branch_restart_window_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Http {
    pub max_body_bytes: usize,
    pub max_in_flight: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Idempotency {
    pub retention_seconds: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Log {
    pub level: String,
    pub format: Format,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Telemetry {
    pub otlp_endpoint: String,
    pub sample_percent: u8,
    pub metrics: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Cluster {
    pub auth_url: String,
    pub catalog_url: String,
    pub order_url: String,
    pub peers: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Auth {
    pub shards: usize,
    pub bcrypt_cost: u32,
    pub database: Database,
    pub admin: Admin,
    pub http: Listen,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Node {
    pub shards: usize,
    pub auth_url: String,
    pub database: Database,
    pub http: Listen,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Database {
    pub name: String,
    pub user: String,
    pub password: SecretString,
    pub host: String,
    pub port: u16,
    pub echo: bool,
    pub max_connections: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Admin {
    pub username: String,
    pub email: String,
    pub password: SecretString,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Listen {
    pub host: String,
    pub port: u16,
}

impl Config {
    /// Reads the defaults, then overrides them with `file`, then with those of `variables` that
    /// begin with `SHOP__`.
    ///
    /// # Errors
    /// The first unknown or invalid key, with its name, its source and what is allowed.
    pub fn read(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Config> {
        let mut settings = Settings::defaults(DEFAULTS)?;
        if let Some(file) = file {
            settings.override_from_file(file)?;
        }
        for (variable, text) in variables {
            if let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                let key = name.to_lowercase().replace("__", ".");
                settings.override_from_environment(&variable, &key, text)?;
            }
        }
        let (values, origins) = settings.into_table()?;
        let config: Result<Config, _> = serde_path_to_error::deserialize(values);
        let config = match config {
            Ok(config) => Config { origins, ..config },
            Err(error) => {
                let key = error.path().to_string();
                let origin = origins.get(&key).unwrap_or(&Origin::Default);
                anyhow::bail!("{origin}: {key}: {}", error.inner().message().trim())
            }
        };
        config.validate()?;
        Ok(config)
    }
}
