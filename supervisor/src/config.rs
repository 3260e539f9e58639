//! The configuration: `config.toml` of the source is both the sample and the defaults; a file and the
//! environment change single keys of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

const DEFAULTS: &str = include_str!("../../config.toml");
const ENVIRONMENT: &str = "SHOP__";

/// A shorter key of HMAC-SHA-256 is easier to guess than its signature (RFC 7518, 3.2).
const SECRET_BYTES: usize = 32;

/// What samples write where a secret belongs.
const PLACEHOLDERS: [&str; 7] = [
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "your-secret",
    "your_secret",
    "replace-me",
];

/// All of it. Each key is explained in `config.toml`.
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
    /// Where each key got its value from.
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
    pub verified_for_seconds: u32,
}

/// Which algorithm signs tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "their names say it all")]
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
    pub answer_timeout_ms: u64,
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
    pub health_monitor: usize,
    pub passwords: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Supervision {
    pub first_wait_ms: u64,
    pub longest_wait_ms: u64,
    pub actor_deaths: usize,
    pub actor_window_seconds: u64,
    pub branch_deaths: usize,
    pub branch_window_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Http {
    pub body_limit_bytes: usize,
    pub in_flight: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Idempotency {
    pub kept_for_seconds: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Log {
    pub level: String,
    pub format: Format,
}

/// What log lines look like.
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
    pub sampled_percent: u8,
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
    pub owners: usize,
    pub bcrypt_cost: u32,
    pub database: Database,
    pub admin: Admin,
    pub http: Listen,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "config.toml explains every key")]
pub struct Node {
    pub owners: usize,
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
    pub connections: u32,
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

/// Where a value was found.
#[derive(Clone, Debug)]
enum Origin {
    Default,
    File(PathBuf, usize),
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::File(file, line) => write!(f, "{} line {line}", file.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
        }
    }
}

/// Values by their dotted keys, and where each was found.
type Settings = BTreeMap<String, (Value, Origin)>;

impl Config {
    /// The defaults, changed by `file` and then by those of `variables` that begin with `SHOP__`.
    ///
    /// # Errors
    /// The first key that is unknown or wrong: its name, its place, and what is allowed.
    pub fn read(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Config> {
        let mut settings = Settings::new();
        for (key, value, _) in parse(DEFAULTS).context("the built-in config.toml")? {
            settings.insert(key, (value, Origin::Default));
        }
        if let Some(file) = file {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let keys = parse(&text).with_context(|| format!("{} is not TOML", file.display()))?;
            for (key, value, line) in keys {
                set(&mut settings, &key, value, Origin::File(file.to_owned(), line))?;
            }
        }
        for (variable, text) in variables {
            let Some(key) = variable.strip_prefix(ENVIRONMENT) else { continue };
            let key = key.to_lowercase().replace("__", ".");
            let origin = Origin::Environment(variable);
            let value = like(settings.get(&key).map(|(value, _)| value), text);
            set(&mut settings, &key, value, origin)?;
        }
        let config = assemble(settings)?;
        config.check()?;
        Ok(config)
    }

    /// The problem with a key's value, said with its name and its place.
    fn wrong(&self, key: &str, problem: &str) -> anyhow::Error {
        let origin = self.origins.get(key).unwrap_or(&Origin::Default);
        anyhow::anyhow!("{origin}: {key} {problem}")
    }

    fn check(&self) -> anyhow::Result<()> {
        let within = |key: &str, value: u64, least: u64, most: u64| match value {
            value if (least..=most).contains(&value) => Ok(()),
            _ => Err(self.wrong(key, &format!("must be from {least} to {most}"))),
        };
        within("auth.bcrypt_cost", self.auth.bcrypt_cost.into(), 4, 31)?;
        within(
            "jwt.access_token_expire_minutes",
            self.jwt.access_token_expire_minutes.into(),
            1,
            525_600,
        )?;
        within("jwt.verified_for_seconds", self.jwt.verified_for_seconds.into(), 0, 3600)?;
        within("rabbitmq.prefetch", self.rabbitmq.prefetch.into(), 1, 10_000)?;
        within("rabbitmq.max_attempts", self.rabbitmq.max_attempts.into(), 0, 1000)?;
        within("rabbitmq.delivery_limit", self.rabbitmq.delivery_limit.into(), 1, 1000)?;
        for (kind, capacity) in [
            ("users", self.mailboxes.users),
            ("catalog", self.mailboxes.catalog),
            ("orders", self.mailboxes.orders),
            ("customers", self.mailboxes.customers),
            ("dead_letters", self.mailboxes.dead_letters),
            ("audit", self.mailboxes.audit),
            ("health_monitor", self.mailboxes.health_monitor),
            ("passwords", self.mailboxes.passwords),
        ] {
            within(&format!("mailboxes.{kind}"), capacity as u64, 1, 1_000_000)?;
        }
        let Supervision { first_wait_ms, longest_wait_ms, .. } = self.supervision;
        within("supervision.first_wait_ms", first_wait_ms, 1, 60_000)?;
        within("supervision.longest_wait_ms", longest_wait_ms, first_wait_ms, 600_000)?;
        for (key, number) in [
            ("actor_deaths", self.supervision.actor_deaths as u64),
            ("actor_window_seconds", self.supervision.actor_window_seconds),
            ("branch_deaths", self.supervision.branch_deaths as u64),
            ("branch_window_seconds", self.supervision.branch_window_seconds),
        ] {
            within(&format!("supervision.{key}"), number, 1, 86_400)?;
        }
        within("actors.answer_timeout_ms", self.actors.answer_timeout_ms, 100, 60_000)?;
        within("http.body_limit_bytes", self.http.body_limit_bytes as u64, 1024, 1 << 30)?;
        within(
            "idempotency.kept_for_seconds",
            self.idempotency.kept_for_seconds.into(),
            1,
            31_536_000,
        )?;
        within("telemetry.sampled_percent", self.telemetry.sampled_percent.into(), 0, 100)?;
        let endpoint = &self.telemetry.otlp_endpoint;
        if !endpoint.is_empty() && !["http://", "https://"].iter().any(|s| endpoint.starts_with(s))
        {
            let problem = "must be a URL, such as http://127.0.0.1:4318, or empty";
            return Err(self.wrong("telemetry.otlp_endpoint", problem));
        }
        within("http.in_flight", self.http.in_flight as u64, 1, 1_000_000)?;
        for (node, owners, database) in [
            ("auth", self.auth.owners, &self.auth.database),
            ("catalog", self.catalog.owners, &self.catalog.database),
            ("order", self.order.owners, &self.order.database),
        ] {
            within(&format!("{node}.owners"), owners as u64, 1, 256)?;
            let needed = owners as u64 + 7;
            within(
                &format!("{node}.database.connections"),
                database.connections.into(),
                needed,
                1000,
            )?;
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            return Err(self.wrong("log.level", "must be error, warn, info, debug or trace"));
        }
        self.check_secret()
    }

    fn check_secret(&self) -> anyhow::Result<()> {
        let secret = self.jwt.secret_key.expose_secret();
        if secret.is_empty() && self.embedded.postgres {
            return Ok(()); // made up
        }
        let wrong = |problem| {
            let advice = "set it on every node, to what `openssl rand -hex 32` prints";
            Err(self.wrong("jwt.secret_key", &format!("{problem}; {advice}")))
        };
        let lower = secret.to_lowercase();
        match secret {
            "" => wrong("is missing"),
            _ if PLACEHOLDERS.iter().any(|word| lower.contains(word)) => wrong("is a placeholder"),
            _ if secret.len() < SECRET_BYTES => wrong("must have at least 32 bytes"),
            _ => Ok(()),
        }
    }
}

/// The keys of a TOML text with their lines, counted from 1.
fn parse(text: &str) -> anyhow::Result<Vec<(String, Value, usize)>> {
    let values: toml::Table = toml::from_str(text)?;
    let places = DeTable::parse(text)?;
    let mut keys = vec![];
    flatten(text, "", &values, places.get_ref(), &mut keys);
    Ok(keys)
}

fn flatten(
    text: &str,
    prefix: &str,
    values: &toml::Table,
    places: &DeTable<'_>,
    keys: &mut Vec<(String, Value, usize)>,
) {
    for (name, place) in places.iter() {
        let key = format!("{prefix}{}", name.get_ref());
        let line = text[..name.span().start].lines().count().max(1)
            + usize::from(text[..name.span().start].ends_with('\n'));
        match (values.get(name.get_ref().as_ref()), Spanned::get_ref(place)) {
            (Some(Value::Table(values)), DeValue::Table(places)) => {
                if places.is_empty() {
                    keys.push((key.clone(), Value::Table(toml::Table::new()), line));
                }
                flatten(text, &format!("{key}."), values, places, keys);
            }
            (Some(value), _) => keys.push((key, value.clone(), line)),
            (None, _) => {}
        }
    }
}

/// Reads what a variable holds as the type that the key has by default; what cannot be, stays a text and is
/// refused as one.
fn like(default: Option<&Value>, text: String) -> Value {
    match default {
        Some(Value::Integer(_)) => text.parse().map_or(Value::String(text), Value::Integer),
        Some(Value::Boolean(_)) => text.parse().map_or(Value::String(text), Value::Boolean),
        Some(Value::Array(_)) => {
            let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            Value::Array(texts.map(|text| Value::String(text.to_owned())).collect())
        }
        _ => Value::String(text),
    }
}

fn set(settings: &mut Settings, key: &str, value: Value, origin: Origin) -> anyhow::Result<()> {
    let Some((known, _)) = settings.get(key) else {
        // An empty section is not a key.
        let section = format!("{key}.");
        if value.as_table().is_some_and(toml::Table::is_empty)
            && settings.keys().any(|known| known.starts_with(&section))
        {
            return Ok(());
        }
        bail!("{origin}: there is no key {key}; {}", allowed(settings, key));
    };
    ensure!(
        known.same_type(&value),
        "{origin}: {key} must be {}, not {value}",
        match known {
            Value::Integer(_) => "a whole number",
            Value::Boolean(_) => "true or false",
            Value::Array(_) => "a list of texts in brackets",
            _ => "a text in quotes",
        }
    );
    settings.insert(key.to_owned(), (value, origin));
    Ok(())
}

/// What stands in the nearest section that there is.
fn allowed(settings: &Settings, key: &str) -> String {
    let mut section = key;
    loop {
        section = section.rsplit_once('.').map_or("", |(section, _)| section);
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        let mut names: Vec<_> = settings
            .keys()
            .filter_map(|known| known.strip_prefix(&prefix)?.split('.').next())
            .collect();
        names.dedup();
        if !names.is_empty() {
            let place = if section.is_empty() { "at the top" } else { section };
            return format!("{place} there are {}", names.join(", "));
        }
    }
}

fn assemble(settings: Settings) -> anyhow::Result<Config> {
    let mut root = toml::Table::new();
    let mut origins = BTreeMap::new();
    for (key, (value, origin)) in settings {
        let mut table = &mut root;
        let mut names = key.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                table.insert(name.to_owned(), value);
                break;
            }
            let section = table.entry(name).or_insert_with(|| Value::Table(toml::Table::new()));
            table = section.as_table_mut().context("a key is a section as well")?;
        }
        origins.insert(key, origin);
    }
    let config: Result<Config, _> = serde_path_to_error::deserialize(Value::Table(root));
    match config {
        Ok(config) => Ok(Config { origins, ..config }),
        Err(error) => {
            let key = error.path().to_string();
            let origin = origins.get(&key).unwrap_or(&Origin::Default);
            bail!("{origin}: {key}: {}", error.inner().message().trim())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Config> {
        let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        Config::read(None, variables.iter().map(owned))
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        read(variables).expect_err("it is refused").to_string()
    }

    #[test]
    fn the_sample_is_the_default() {
        let config = read(&[]).unwrap();
        assert_eq!((config.auth.http.port, config.catalog.http.port), (8000, 8001));
        assert_eq!(config.jwt.algorithm, Algorithm::HS256);
    }

    #[test]
    fn every_key_of_the_sample_is_commented_or_speaks_for_itself() {
        let sections: Vec<_> = DEFAULTS.split("\n[").skip(1).collect();
        assert!(sections.iter().all(|section| section.contains("= ")), "no section is empty");
    }

    #[test]
    fn a_variable_overrides_a_key_and_keeps_its_type() {
        let config = read(&[
            ("SHOP__RABBITMQ__PASSWORD", "12345"),
            ("SHOP__AUTH__HTTP__PORT", "9000"),
            ("SHOP__AUTH__DATABASE__ECHO", "true"),
            ("HOME", "/root"),
        ])
        .unwrap();
        assert_eq!(config.rabbitmq.password.expose_secret(), "12345");
        assert_eq!((config.auth.http.port, config.auth.database.echo), (9000, true));
    }

    #[test]
    fn a_wrong_variable_is_named_with_what_is_allowed() {
        assert_eq!(
            refusal(&[("SHOP__AUTH__HTTP__PROT", "9000")]),
            "environment variable SHOP__AUTH__HTTP__PROT: there is no key auth.http.prot; \
             auth.http there are host, port"
        );
        assert_eq!(
            refusal(&[("SHOP__AUTH__HTTP__PORT", "many")]),
            "environment variable SHOP__AUTH__HTTP__PORT: auth.http.port must be a whole number, not \"many\""
        );
        let refusal = refusal(&[("SHOP__AUTH__HTTP__PORT", "70000")]);
        assert!(refusal.contains("SHOP__AUTH__HTTP__PORT: auth.http.port:"), "{refusal}");
        assert!(refusal.contains("70000"), "{refusal}");
    }

    #[test]
    fn a_wrong_key_in_a_file_is_named_with_its_line() {
        let folder = std::env::temp_dir().join(format!("shop-config-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let refusal = |text: &str| {
            let file = folder.join("config.toml");
            fs::write(&file, text).unwrap();
            let refusal = Config::read(Some(&file), []).expect_err("it is refused");
            format!("{refusal:#}").replace(&*file.to_string_lossy(), "config.toml")
        };
        assert_eq!(
            refusal("[auth]\n\n[auth.http]\nhost = \"::1\"\nprot = 1\n"),
            "config.toml line 5: there is no key auth.http.prot; auth.http there are host, port"
        );
        assert_eq!(
            refusal("[jwt]\nalgorithm = 'none'\n"),
            "config.toml line 2: jwt.algorithm: unknown variant `none`, expected one of `HS256`, `HS384`, `HS512`"
        );
        assert!(refusal("[jwt\n").contains("line 1"));
        assert!(refusal("colour = 1\n").starts_with(
            "config.toml line 1: there is no key colour; at the top there are actors, auth"
        ));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_short_or_placeholder_secret_is_refused() {
        let secret = |secret| {
            refusal(&[("SHOP__EMBEDDED__POSTGRES", "false"), ("SHOP__JWT__SECRET_KEY", secret)])
        };
        assert!(secret("").contains("is missing"));
        assert!(secret("too short").contains("at least 32 bytes"));
        assert!(secret("please-change-me-please-change-me-please").contains("is a placeholder"));
        let good = ("SHOP__JWT__SECRET_KEY", "0123456789abcdef0123456789abcdef");
        assert!(read(&[("SHOP__EMBEDDED__POSTGRES", "false"), good]).is_ok());
    }
}
