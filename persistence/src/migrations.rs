//! Migrations: the tables of each node, as a list of steps. The SQL of tables that several nodes
//! have is in `migrations/shared`, once.
//!
//! An applied migration never changes: sqlx compares the checksum of its SQL with the one that the
//! database recorded, and refuses to start.

use std::sync::LazyLock;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The tables that a database holds: those of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// The auth node's.
    Auth,
    /// The catalog node's.
    Catalog,
    /// The order node's.
    Order,
}

impl Schema {
    pub(crate) fn migrator(self) -> &'static Migrator {
        static AUTH: LazyLock<Migrator> = LazyLock::new(|| migrator(AUTH_STEPS));
        static CATALOG: LazyLock<Migrator> = LazyLock::new(|| migrator(CATALOG_STEPS));
        static ORDER: LazyLock<Migrator> = LazyLock::new(|| migrator(ORDER_STEPS));
        match self {
            Schema::Auth => &AUTH,
            Schema::Catalog => &CATALOG,
            Schema::Order => &ORDER,
        }
    }
}

/// A migration: its version, which the database records and which never changes, its name and its
/// SQL.
type Step = (i64, &'static str, &'static str);

const OUTBOX: &str = include_str!("../migrations/shared/outbox.sql");
const CUSTOMERS: &str = include_str!("../migrations/shared/customers.sql");
const IDEMPOTENCY_KEYS: &str = include_str!("../migrations/shared/idempotency_keys.sql");
const DEAD_LETTERS: &str = include_str!("../migrations/shared/dead_letters.sql");
const AUDIT_LOG: &str = include_str!("../migrations/shared/audit_log.sql");
const MOVEMENT_KINDS: &str = include_str!("../migrations/shared/movement_kinds.sql");

const AUTH_STEPS: &[Step] = &[
    (1, "users", include_str!("../migrations/auth/0001_users.sql")),
    (2, "outbox", OUTBOX),
    (4, "idempotency keys", IDEMPOTENCY_KEYS),
    (5, "dead letters", DEAD_LETTERS),
    (6, "audit log", AUDIT_LOG),
];

const CATALOG_STEPS: &[Step] = &[
    (1, "catalog", include_str!("../migrations/catalog/0001_catalog.sql")),
    (2, "outbox", OUTBOX),
    (3, "customers", CUSTOMERS),
    (4, "idempotency keys", IDEMPOTENCY_KEYS),
    (5, "dead letters", DEAD_LETTERS),
    (6, "resyncs", include_str!("../migrations/catalog/0006_resyncs.sql")),
    (7, "audit log", AUDIT_LOG),
    (8, "movement kinds", MOVEMENT_KINDS),
];

const ORDER_STEPS: &[Step] = &[
    (1, "orders", include_str!("../migrations/order/0001_orders.sql")),
    (2, "outbox", OUTBOX),
    (3, "customers", CUSTOMERS),
    (4, "idempotency keys", IDEMPOTENCY_KEYS),
    (5, "dead letters", DEAD_LETTERS),
    (6, "resyncs", include_str!("../migrations/order/0006_resyncs.sql")),
    (7, "audit log", AUDIT_LOG),
    (8, "fewer checks", include_str!("../migrations/order/0008_fewer_checks.sql")),
    (9, "long events", include_str!("../migrations/order/0009_long_events.sql")),
    (10, "movement kinds", MOVEMENT_KINDS),
];

fn migrator(steps: &[Step]) -> Migrator {
    let migrations = steps.iter().map(|&(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const ALL: [&[Step]; 3] = [AUTH_STEPS, CATALOG_STEPS, ORDER_STEPS];

    #[test]
    fn versions_ascend() {
        for steps in ALL {
            assert!(steps.is_sorted_by(|(one, ..), (next, ..)| one < next), "{steps:?}");
        }
    }

    #[test]
    fn every_migration_file_is_a_step() {
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        for folder in fs::read_dir(migrations).unwrap() {
            for file in fs::read_dir(folder.unwrap().path()).unwrap() {
                let file = file.unwrap().path();
                let text = fs::read_to_string(&file).unwrap();
                let listed = ALL.into_iter().flatten().any(|(.., sql)| *sql == text);
                assert!(listed, "{} is in no list of steps", file.display());
            }
        }
    }
}
