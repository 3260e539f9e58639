//! Convergence: two databases that receive the same updates reach the same state, whatever is
//! repeated, late or out of order. On real tables, with the queries of the actors.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shop_persistence::catalog::Offer;
use shop_persistence::customers::{self, UserUpdate};
use shop_persistence::stock::{self, Movement};
use shop_persistence::users::{Role, User};
use shop_persistence::{Database, DatabaseServer, Schema, Session};
use shop_tests::{BrokerKind, Settings};
use sqlx::PgConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

/// The number of histories. Each is applied twice.
const HISTORIES: u32 = 40;

/// An update of the `n`-th product or user of a history.
#[derive(Clone, Debug)]
enum Update {
    /// The catalog offers a product. The total ever stocked grows with the version.
    Offer { product: i64, version: i64 },
    /// A sale that another node recorded. The number makes it unique.
    Sale { product: i64, number: u128, delta: i64 },
    /// A user was changed or deleted.
    User { user: u128, version: i64, deleted: bool },
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        (0..3_i64, 1..6_i64).prop_map(|(product, version)| Update::Offer { product, version }),
        // The same number is always the same sale.
        (0..3_i64, 0..8_u128).prop_map(|(product, number)| {
            Update::Sale { product, number, delta: -1 - (number as i64 % 3) }
        }),
        // The last version deletes the user.
        (0..3_u128, 1..6_i64).prop_map(|(user, version)| Update::User {
            user,
            version,
            deleted: version == 5
        }),
    ]
}

/// The same updates in two orders, with repetitions and batches of different sizes.
fn histories() -> impl Strategy<Value = [Vec<Vec<Update>>; 2]> {
    let updates = prop::collection::vec(update(), 1..40);
    updates.prop_flat_map(|updates| {
        let order = |updates: Vec<Update>| {
            let repeated: Vec<_> =
                updates.iter().chain(updates.iter().step_by(3)).cloned().collect();
            (Just(repeated).prop_shuffle(), 1..7_usize).prop_map(|(updates, size)| {
                updates.chunks(size).map(<[Update]>::to_vec).collect::<Vec<_>>()
            })
        };
        (order(updates.clone()), order(updates)).prop_map(|(one, other)| [one, other])
    })
}

/// A database to which histories are applied.
struct Replica {
    session: Session,
    reader: PgConnection,
}

impl Replica {
    async fn new(settings: &Settings, name: &str, schema: Schema) -> Replica {
        let server = settings.config().order.database;
        let server = DatabaseServer {
            host: server.host,
            port: server.port,
            user: server.user,
            password: server.password,
            echo: false,
            connections: 2,
        };
        let name = format!("{}{name}", settings.prefix);
        let database = Database::open(&server, &name, schema).await.unwrap();
        Replica { session: database.session(), reader: settings.connect(&name).await }
    }

    /// Applies a batch as the order node does.
    async fn apply_on_order(&mut self, history: i64, batch: &[Update]) {
        let offers: Vec<_> = batch.iter().filter_map(|update| update.offer(history)).collect();
        let sales: Vec<_> = batch.iter().filter_map(|update| update.sale(history)).collect();
        let users: Vec<_> = batch.iter().filter_map(|update| update.user(history)).collect();
        let mut tx = self.session.begin().await.unwrap();
        stock::take_over(&mut tx, &sales).await.unwrap();
        stock::offer(&mut tx, &offers).await.unwrap();
        customers::upsert(&mut tx, &users).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Applies the sales of a batch as the catalog node does.
    async fn apply_on_catalog(&mut self, history: i64, batch: &[Update]) {
        let sales: Vec<_> = batch.iter().filter_map(|update| update.sale(history)).collect();
        let mut tx = self.session.begin().await.unwrap();
        stock::apply(&mut tx, &sales).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Adds the products of a history to the catalog, without stock.
    async fn add_products(&mut self, history: i64) {
        let category = "insert into categories (name, level)
                        select 'all', 0 where not exists (select from categories)";
        sqlx::query(category).execute(&mut self.reader).await.unwrap();
        let products = "insert into products (id, name, price, storage_quantity, category_id)
                        overriding system value
                        select $1 * 10 + n, 'cup', 1, 0, (select min(id) from categories)
                        from generate_series(0, 2) as n";
        sqlx::query(products).bind(history).execute(&mut self.reader).await.unwrap();
    }

    async fn products(&mut self, query: &'static str, history: i64) -> Vec<String> {
        sqlx::query_scalar(query).bind(history).fetch_all(&mut self.reader).await.unwrap()
    }

    async fn customers(&mut self, history: i64) -> Vec<String> {
        let [first, last] = [0, u64::MAX.into()].map(|user| user_id(history, user));
        let customers = sqlx::query_scalar(CUSTOMERS).bind(first).bind(last);
        customers.fetch_all(&mut self.reader).await.unwrap()
    }
}

/// Each history has its own ids.
fn product_id(history: i64, product: i64) -> i64 {
    history * 10 + product
}

fn user_id(history: i64, user: u128) -> Uuid {
    Uuid::from_u128((history as u128) << 64 | user)
}

/// The total that was ever stocked at this version: more than is ever sold.
fn stocked(version: i64) -> i64 {
    100 * version
}

impl Update {
    fn offer(&self, history: i64) -> Option<stock::ProductUpdate> {
        let Update::Offer { product, version } = *self else { return None };
        let name = format!("product {product} as of version {version}");
        let id = product_id(history, product);
        let offer =
            Offer { id, name, price: version, quantity: stocked(version), category_id: version };
        Some(stock::ProductUpdate { version, offer })
    }

    fn sale(&self, history: i64) -> Option<Movement> {
        let Update::Sale { product, number, delta } = *self else { return None };
        let id = Uuid::from_u128((history as u128) << 64 | (product as u128) << 32 | number);
        let product_id = product_id(history, product);
        Some(Movement { id, ..Movement::sold(product_id, delta, number as i64) })
    }

    fn user(&self, history: i64) -> Option<UserUpdate> {
        let Update::User { user, version, deleted } = *self else { return None };
        let id = user_id(history, user);
        let username = format!("user {user} as of version {version}");
        let user = User { id, username, email: format!("{version}@example.com"), role: Role::User };
        Some(UserUpdate { id, version, user: (!deleted).then_some(user) })
    }
}

const PRODUCTS: &str = "
    select concat_ws(' ', id, name, price, category_id, stocked, quantity, version)
    from products where id / 10 = $1 order by id";

const CUSTOMERS: &str = "
    select concat_ws(' ', id, version, deleted, case when not deleted then username || email end)
    from customers where id between $1 and $2 order by id";

const SOLD: &str = "
    select id || ' ' || storage_quantity from products where id / 10 = $1 order by id";

/// The expected products of the order node, computed from the updates.
fn expected(history: i64, batches: &[Vec<Update>]) -> Vec<String> {
    let mut newest = BTreeMap::<i64, i64>::new();
    let mut sold = BTreeMap::<i64, BTreeMap<u128, i64>>::new();
    for update in batches.iter().flatten() {
        match *update {
            Update::Offer { product, version } => {
                let known = newest.entry(product).or_default();
                *known = version.max(*known);
            }
            Update::Sale { product, number, delta } => {
                newest.entry(product).or_default();
                sold.entry(product).or_default().insert(number, delta);
            }
            Update::User { .. } => {}
        }
    }
    let line = |(product, version): (i64, i64)| {
        let moved: i64 = sold.get(&product).map_or(0, |sold| sold.values().sum());
        let (id, all) = (product_id(history, product), stocked(version));
        let name = match version {
            0 => String::new(),
            version => format!("product {product} as of version {version}"),
        };
        format!("{id} {name} {version} {version} {all} {} {version}", all + moved)
    };
    newest.into_iter().map(line).collect()
}

#[test]
fn replicas_converge_in_any_order_of_updates() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter(); // sessions are closed by a task
    let settings = runtime.block_on(Settings::single_replica(BrokerKind::Bus));
    let new = async |name: &str, schema| Mutex::new(Replica::new(&settings, name, schema).await);
    let (orders, catalogs) = runtime.block_on(async {
        let orders = [new("order_1", Schema::Order).await, new("order_2", Schema::Order).await];
        let catalogs =
            [new("catalog_1", Schema::Catalog).await, new("catalog_2", Schema::Catalog).await];
        (orders, catalogs)
    });
    let histories_so_far = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&histories(), |deliveries| {
        let history = histories_so_far.get() + 1;
        histories_so_far.set(history);
        let copy = async |replica: &Mutex<Replica>, batches: &[Vec<Update>]| {
            let mut replica = replica.lock().await;
            for batch in batches {
                replica.apply_on_order(history, batch).await;
            }
            (replica.products(PRODUCTS, history).await, replica.customers(history).await)
        };
        let follow = async |replica: &Mutex<Replica>, batches: &[Vec<Update>]| {
            let mut replica = replica.lock().await;
            replica.add_products(history).await;
            for batch in batches {
                replica.apply_on_catalog(history, batch).await;
            }
            replica.products(SOLD, history).await
        };
        runtime.block_on(async {
            let (products, customers) = copy(&orders[0], &deliveries[0]).await;
            let other = copy(&orders[1], &deliveries[1]).await;
            prop_assert_eq!((&products, &customers), (&other.0, &other.1));
            prop_assert_eq!(products, expected(history, &deliveries[0]));
            let sold = follow(&catalogs[0], &deliveries[0]).await;
            prop_assert_eq!(sold, follow(&catalogs[1], &deliveries[1]).await);
            Ok(())
        })
    });
    outcome.unwrap();
}
