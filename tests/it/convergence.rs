//! Whatever is repeated, late or out of order: two databases that hear the same news come to the same state. On real tables,
//! through the same queries as the owners.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shop_persistence::catalog::Offer;
use shop_persistence::customers::{self, UserUpdate};
use shop_persistence::stock::{self, Movement};
use shop_persistence::users::{Role, User};
use shop_persistence::{Database, DatabaseServer, Schema, Session};
use sqlx::PgConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::shop::{Over, Settings};

/// How many histories are tried; each is heard twice.
const HISTORIES: u32 = 40;

/// Something to hear, about the `n`-th product or user of a history.
#[derive(Clone, Debug)]
enum Heard {
    /// The catalog offers it; all that was ever stocked grows with the version.
    Offer { product: i64, version: i64 },
    /// A sale that another node remembers: its number makes it unique.
    Sale { product: i64, number: u128, delta: i64 },
    /// A user changed, or is gone.
    User { user: u128, version: i64, gone: bool },
}

fn heard() -> impl Strategy<Value = Heard> {
    prop_oneof![
        (0..3_i64, 1..6_i64).prop_map(|(product, version)| Heard::Offer { product, version }),
        // The same number is always the same sale.
        (0..3_i64, 0..8_u128).prop_map(|(product, number)| {
            Heard::Sale { product, number, delta: -1 - (number as i64 % 3) }
        }),
        // A user who is gone stays so: the last version is the end.
        (0..3_u128, 1..6_i64).prop_map(|(user, version)| Heard::User {
            user,
            version,
            gone: version == 5
        }),
    ]
}

/// What is heard in all, in two orders, in batches of two sizes, with repetitions.
fn histories() -> impl Strategy<Value = [Vec<Vec<Heard>>; 2]> {
    let news = prop::collection::vec(heard(), 1..40);
    news.prop_flat_map(|news| {
        let order = |news: Vec<Heard>| {
            let repeated: Vec<_> = news.iter().chain(news.iter().step_by(3)).cloned().collect();
            (Just(repeated).prop_shuffle(), 1..7_usize).prop_map(|(news, size)| {
                news.chunks(size).map(<[Heard]>::to_vec).collect::<Vec<_>>()
            })
        };
        (order(news.clone()), order(news)).prop_map(|(one, other)| [one, other])
    })
}

/// A database, and where in it the rows of a history are.
struct World {
    session: Session,
    reader: PgConnection,
}

impl World {
    async fn new(settings: &Settings, name: &str, schema: Schema) -> World {
        let server = settings.config().order.database;
        let cluster = DatabaseServer {
            host: server.host,
            port: server.port,
            user: server.user,
            password: server.password,
            echo: false,
            connections: 2,
        };
        let name = format!("{}{name}", settings.prefix);
        let database = Database::open(&cluster, &name, schema).await.unwrap();
        World { session: database.session(), reader: settings.connect(&name).await }
    }

    /// The order node hears a batch.
    async fn order_hears(&mut self, history: i64, batch: &[Heard]) {
        let offers: Vec<_> = batch.iter().filter_map(|heard| heard.offer(history)).collect();
        let sales: Vec<_> = batch.iter().filter_map(|heard| heard.sale(history)).collect();
        let users: Vec<_> = batch.iter().filter_map(|heard| heard.user(history)).collect();
        let mut tx = self.session.begin().await.unwrap();
        stock::take_over(&mut tx, &sales).await.unwrap();
        stock::offer(&mut tx, &offers).await.unwrap();
        customers::upsert(&mut tx, &users).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The catalog hears a batch: of the sales.
    async fn catalog_hears(&mut self, history: i64, batch: &[Heard]) {
        let sales: Vec<_> = batch.iter().filter_map(|heard| heard.sale(history)).collect();
        let mut tx = self.session.begin().await.unwrap();
        stock::apply(&mut tx, &sales).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The catalog has the products of this history, with nothing in stock.
    async fn shelve(&mut self, history: i64) {
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

/// Each history has ids of its own.
fn product_id(history: i64, product: i64) -> i64 {
    history * 10 + product
}

fn user_id(history: i64, user: u128) -> Uuid {
    Uuid::from_u128((history as u128) << 64 | user)
}

/// All that was ever stocked by this version: more than is ever sold.
fn stocked(version: i64) -> i64 {
    100 * version
}

impl Heard {
    fn offer(&self, history: i64) -> Option<stock::ProductUpdate> {
        let Heard::Offer { product, version } = *self else { return None };
        let name = format!("product {product} as of version {version}");
        let id = product_id(history, product);
        let offer =
            Offer { id, name, price: version, quantity: stocked(version), category_id: version };
        Some(stock::ProductUpdate { version, offer })
    }

    fn sale(&self, history: i64) -> Option<Movement> {
        let Heard::Sale { product, number, delta } = *self else { return None };
        let id = Uuid::from_u128((history as u128) << 64 | (product as u128) << 32 | number);
        let product_id = product_id(history, product);
        Some(Movement { id, ..Movement::sold(product_id, delta, number as i64) })
    }

    fn user(&self, history: i64) -> Option<UserUpdate> {
        let Heard::User { user, version, gone } = *self else { return None };
        let id = user_id(history, user);
        let username = format!("user {user} as of version {version}");
        let user = User { id, username, email: format!("{version}@example.com"), role: Role::User };
        Some(UserUpdate { id, version, user: (!gone).then_some(user) })
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

/// What the order node's products must be in the end, by the news alone.
fn expected(history: i64, news: &[Vec<Heard>]) -> Vec<String> {
    let mut newest = BTreeMap::<i64, i64>::new();
    let mut sold = BTreeMap::<i64, BTreeMap<u128, i64>>::new();
    for heard in news.iter().flatten() {
        match *heard {
            Heard::Offer { product, version } => {
                let known = newest.entry(product).or_default();
                *known = version.max(*known);
            }
            Heard::Sale { product, number, delta } => {
                newest.entry(product).or_default();
                sold.entry(product).or_default().insert(number, delta);
            }
            Heard::User { .. } => {}
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
fn whatever_the_order_both_nodes_come_to_the_same_state() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter(); // sessions close by a task
    let settings = runtime.block_on(Settings::alone(Over::Bus));
    let new = async |name: &str, schema| Mutex::new(World::new(&settings, name, schema).await);
    let (orders, catalogs) = runtime.block_on(async {
        let orders = [new("order_1", Schema::Order).await, new("order_2", Schema::Order).await];
        let catalogs =
            [new("catalog_1", Schema::Catalog).await, new("catalog_2", Schema::Catalog).await];
        (orders, catalogs)
    });
    let histories_so_far = Cell::new(0);
    let mut tried = TestRunner::new(Config {
        cases: HISTORIES,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = tried.run(&histories(), |heard| {
        let history = histories_so_far.get() + 1;
        histories_so_far.set(history);
        let copy = async |world: &Mutex<World>, news: &[Vec<Heard>]| {
            let mut world = world.lock().await;
            for batch in news {
                world.order_hears(history, batch).await;
            }
            (world.products(PRODUCTS, history).await, world.customers(history).await)
        };
        let follow = async |world: &Mutex<World>, news: &[Vec<Heard>]| {
            let mut world = world.lock().await;
            world.shelve(history).await;
            for batch in news {
                world.catalog_hears(history, batch).await;
            }
            world.products(SOLD, history).await
        };
        runtime.block_on(async {
            let (products, customers) = copy(&orders[0], &heard[0]).await;
            let other = copy(&orders[1], &heard[1]).await;
            prop_assert_eq!((&products, &customers), (&other.0, &other.1));
            prop_assert_eq!(products, expected(history, &heard[0]));
            let sold = follow(&catalogs[0], &heard[0]).await;
            prop_assert_eq!(sold, follow(&catalogs[1], &heard[1]).await);
            Ok(())
        })
    });
    outcome.unwrap();
}
