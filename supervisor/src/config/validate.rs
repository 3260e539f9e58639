//! Checks that types alone cannot express: ranges, and the JWT secret.

use secrecy::ExposeSecret;

use super::{Config, Origin};

/// A key shorter than the output of HMAC-SHA-256 weakens the signature (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Placeholders of sample configurations.
const PLACEHOLDERS: [&str; 7] = [
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "your-secret",
    "your_secret",
    "replace-me",
];

/// Connections that a node needs besides one per shard: its other actors and services.
const EXTRA_CONNECTIONS: u64 = 7;

/// A number and its allowed range: key, value, minimum, maximum.
type Range = (String, u64, u64, u64);

impl Config {
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        let ranges = [self.global_ranges(), self.mailbox_ranges(), self.node_ranges()];
        for (key, value, min, max) in ranges.into_iter().flatten() {
            if !(min..=max).contains(&value) {
                return Err(self.invalid(&key, &format!("must be from {min} to {max}")));
            }
        }
        let endpoint = &self.telemetry.otlp_endpoint;
        let is_url = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        if !endpoint.is_empty() && !is_url {
            let problem = "must be a URL, such as http://127.0.0.1:4318, or empty";
            return Err(self.invalid("telemetry.otlp_endpoint", problem));
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            return Err(self.invalid("log.level", "must be error, warn, info, debug or trace"));
        }
        self.validate_secret()
    }

    fn global_ranges(&self) -> Vec<Range> {
        let Config { jwt, rabbitmq, supervision: s, http, .. } = self;
        let (day, year) = (86_400, 31_536_000);
        let backoff_min = s.restart_backoff_min_ms;
        let token_minutes = jwt.access_token_expire_minutes.into();
        let retention = self.idempotency.retention_seconds.into();
        [
            ("jwt.access_token_expire_minutes", token_minutes, 1, 525_600),
            ("jwt.verification_cache_seconds", jwt.verification_cache_seconds.into(), 0, 3600),
            ("rabbitmq.prefetch", rabbitmq.prefetch.into(), 1, 10_000),
            ("rabbitmq.max_attempts", rabbitmq.max_attempts.into(), 0, 1000),
            ("rabbitmq.delivery_limit", rabbitmq.delivery_limit.into(), 1, 1000),
            ("actors.reply_timeout_ms", self.actors.reply_timeout_ms, 100, 60_000),
            ("supervision.restart_backoff_min_ms", backoff_min, 1, 60_000),
            ("supervision.restart_backoff_max_ms", s.restart_backoff_max_ms, backoff_min, 600_000),
            ("supervision.max_restarts", s.max_restarts as u64, 1, day),
            ("supervision.restart_window_seconds", s.restart_window_seconds, 1, day),
            ("supervision.max_branch_restarts", s.max_branch_restarts as u64, 1, day),
            ("supervision.branch_restart_window_seconds", s.branch_restart_window_seconds, 1, day),
            ("http.max_body_bytes", http.max_body_bytes as u64, 1024, 1 << 30),
            ("http.max_in_flight", http.max_in_flight as u64, 1, 1_000_000),
            ("idempotency.retention_seconds", retention, 1, year),
            ("telemetry.sample_percent", self.telemetry.sample_percent.into(), 0, 100),
            ("auth.bcrypt_cost", self.auth.bcrypt_cost.into(), 4, 31),
        ]
        .map(|(key, value, min, max)| (key.to_owned(), value, min, max))
        .into()
    }

    fn mailbox_ranges(&self) -> Vec<Range> {
        let mailboxes = &self.mailboxes;
        [
            ("users", mailboxes.users),
            ("catalog", mailboxes.catalog),
            ("orders", mailboxes.orders),
            ("customers", mailboxes.customers),
            ("dead_letters", mailboxes.dead_letters),
            ("audit", mailboxes.audit),
            ("health", mailboxes.health),
            ("passwords", mailboxes.passwords),
        ]
        .map(|(kind, capacity)| (format!("mailboxes.{kind}"), capacity as u64, 1, 1_000_000))
        .into()
    }

    fn node_ranges(&self) -> Vec<Range> {
        let nodes = [
            ("auth", self.auth.shards, &self.auth.database),
            ("catalog", self.catalog.shards, &self.catalog.database),
            ("order", self.order.shards, &self.order.database),
        ];
        let ranges = nodes.map(|(node, shards, database)| {
            let (shards, connections) = (shards as u64, database.max_connections.into());
            [
                (format!("{node}.shards"), shards, 1, 256),
                (
                    format!("{node}.database.max_connections"),
                    connections,
                    shards + EXTRA_CONNECTIONS,
                    1000,
                ),
            ]
        });
        ranges.into_iter().flatten().collect()
    }

    fn validate_secret(&self) -> anyhow::Result<()> {
        let secret = self.jwt.secret_key.expose_secret();
        if secret.is_empty() && self.embedded.postgres {
            return Ok(()); // generated
        }
        let lower = secret.to_lowercase();
        let problem = match secret {
            "" => "is missing",
            _ if PLACEHOLDERS.iter().any(|word| lower.contains(word)) => "is a placeholder",
            _ if secret.len() < MIN_SECRET_BYTES => "must have at least 32 bytes",
            _ => return Ok(()),
        };
        let advice = "set it on every node to the output of `openssl rand -hex 32`";
        Err(self.invalid("jwt.secret_key", &format!("{problem}; {advice}")))
    }

    /// An error that names the key, the source of its value and the problem.
    fn invalid(&self, key: &str, problem: &str) -> anyhow::Error {
        let origin = self.origins.get(key).unwrap_or(&Origin::Default);
        anyhow::anyhow!("{origin}: {key} {problem}")
    }
}
