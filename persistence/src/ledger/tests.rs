use std::sync::Mutex;

use proptest::prelude::*;

use uuid::Uuid;

use super::*;
use crate::ids::UserId;
use crate::movements::Movement;
use crate::snapshot::{MAX_PAGE_ROWS, Ordered, Summary, UserRecord, WrongTotal};
use crate::users::{Role, User};

/// A snapshot in memory.
#[derive(Debug, Clone, Default)]
struct MemorySnapshot {
    users: Vec<UserRecord>,
    products: Vec<Stock>,
    summary: Summary,
}

fn page<T: Clone, I: Ord>(rows: &[T], id: impl Fn(&T) -> I, after: I, limit: i64) -> Vec<T> {
    let rest = rows.iter().filter(|row| id(row) > after);
    rest.take(limit as usize).cloned().collect()
}

impl Snapshot for MemorySnapshot {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        Ok(page(&self.users, |user| user.id, after, limit))
    }

    async fn products(&self, after: ProductId, limit: i64, _: Uuid) -> Result<Vec<Stock>> {
        Ok(page(&self.products, |product| product.id, after, limit))
    }

    async fn movements(&self, _: Uuid, _: i64) -> Result<Vec<Movement>> {
        Ok(vec![])
    }

    async fn summary(&self) -> Result<Summary> {
        Ok(self.summary.clone())
    }
}

/// A snapshot that is another one until it was read once.
struct Changing(Mutex<Option<MemorySnapshot>>, MemorySnapshot);

impl Changing {
    fn current(&self) -> MemorySnapshot {
        self.0.lock().unwrap().clone().unwrap_or_else(|| self.1.clone())
    }
}

impl Snapshot for Changing {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        self.current().users(after, limit).await
    }

    async fn products(&self, after: ProductId, limit: i64, before: Uuid) -> Result<Vec<Stock>> {
        self.current().products(after, limit, before).await
    }

    async fn movements(&self, after: Uuid, limit: i64) -> Result<Vec<Movement>> {
        self.current().movements(after, limit).await
    }

    /// Called last.
    async fn summary(&self) -> Result<Summary> {
        let current = self.current();
        *self.0.lock().unwrap() = None;
        current.summary().await
    }
}

type Three = [MemorySnapshot; 3];

async fn taken([auth, catalog, order]: &Three) -> Ledger {
    Ledger::take(auth, catalog, order, Duration::ZERO).await.unwrap()
}

fn ledger_of(three: &Three) -> Ledger {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(taken(three))
}

fn user_record(id: u128) -> UserRecord {
    let id = Uuid::from_u128(id + 1);
    let (username, email) = (format!("anna-{id}"), format!("{id}@example.com"));
    let user = User { id, username, email, role: Role::User };
    UserRecord { id, version: 3, user: Some(user), deleted: false }
}

fn on_catalog(id: ProductId, stocked: i64, sold: i64) -> Stock {
    let left = stocked - sold;
    let name = format!("teapot {id}");
    Stock {
        id,
        name,
        price: 1990,
        category_id: 2,
        version: 1,
        left,
        moved: left,
        stocked,
        sold,
        orders: None,
    }
}

fn on_order(stock: &Stock, taken_over: i64) -> Stock {
    let (ordered, announced) = (stock.sold - taken_over, stock.stocked);
    let orders = Some(Ordered { announced, ordered, placed: ordered, taken_over });
    Stock { orders, ..stock.clone() }
}

/// Equal snapshots of three nodes: a number of users, and products with what was stocked and sold.
fn agreeing(users: u128, products: &[(i64, i64)]) -> Three {
    let users: Vec<_> = (0..users).map(user_record).collect();
    let product = |(id, (stocked, sold)): (ProductId, &(i64, i64))| on_catalog(id, *stocked, *sold);
    let products: Vec<_> = (1..).zip(products).map(product).collect();
    let ordered = products.iter().map(|stock| on_order(stock, stock.sold / 2)).collect();
    let summary = Summary::default();
    // Copies contain deleted users.
    let deleted = UserRecord { deleted: true, ..user_record(u128::from(u64::MAX)) };
    let copies: Vec<_> = users.iter().cloned().chain([deleted]).collect();
    [
        MemorySnapshot { users, products: vec![], summary: summary.clone() },
        MemorySnapshot { users: copies.clone(), products, summary: summary.clone() },
        MemorySnapshot { users: copies, products: ordered, summary },
    ]
}

fn snapshots() -> impl Strategy<Value = Three> {
    let product = (0..1000_i64).prop_flat_map(|stocked| (Just(stocked), 0..=stocked));
    (1..40_u128, prop::collection::vec(product, 1..40))
        .prop_map(|(users, products)| agreeing(users, &products))
}

/// Changes one figure. Returns the subject and the node of the expected difference.
type Change = fn(&mut Three, usize) -> (String, &'static str);

fn product(three: &mut Three, node: usize, at: usize) -> &mut Stock {
    let products = &mut three[node].products;
    let at = at % products.len();
    &mut products[at]
}

fn user(three: &mut Three, node: usize, at: usize) -> &mut UserRecord {
    let users = three[0].users.len();
    &mut three[node].users[at % users]
}

fn change_product(
    three: &mut Three,
    node: usize,
    at: usize,
    named: &'static str,
    change: impl FnOnce(&mut Stock),
) -> (String, &'static str) {
    let product = product(three, node, at);
    change(product);
    (format!("product {}", product.id), named)
}

fn change_user(
    three: &mut Three,
    node: usize,
    at: usize,
    change: impl FnOnce(&mut UserRecord),
) -> (String, &'static str) {
    let user = user(three, node, at);
    change(user);
    (format!("user {}", user.id), if node == 1 { "catalog" } else { "order" })
}

fn lose_user(
    three: &mut Three,
    node: usize,
    at: usize,
    named: &'static str,
) -> (String, &'static str) {
    let id = user(three, node, at).id;
    three[node].users.retain(|user| user.id != id);
    (format!("user {id}"), named)
}

fn orders(stock: &mut Stock) -> &mut Ordered {
    stock.orders.as_mut().unwrap()
}

const CHANGES: [Change; 25] = [
    |three, at| change_product(three, 1, at, "catalog", |stock| stock.left += 1),
    |three, at| change_product(three, 2, at, "order", |stock| stock.left -= 1),
    |three, at| change_product(three, 1, at, "catalog", |stock| stock.moved -= 1),
    |three, at| change_product(three, 2, at, "order", |stock| stock.moved += 1),
    |three, at| change_product(three, 1, at, "order", |stock| stock.stocked += 1),
    |three, at| change_product(three, 2, at, "order", |stock| stock.stocked += 1),
    |three, at| change_product(three, 1, at, "catalog", |stock| stock.sold += 1),
    |three, at| change_product(three, 2, at, "catalog", |stock| stock.sold += 1),
    |three, at| change_product(three, 1, at, "order", |stock| stock.version += 1),
    |three, at| change_product(three, 2, at, "order", |stock| stock.price += 1),
    |three, at| change_product(three, 2, at, "order", |stock| stock.category_id += 1),
    |three, at| change_product(three, 1, at, "order", |stock| stock.name.push('x')),
    |three, at| change_product(three, 2, at, "order", |stock| orders(stock).ordered += 1),
    |three, at| change_product(three, 2, at, "order", |stock| orders(stock).placed += 1),
    |three, at| change_product(three, 2, at, "order", |stock| orders(stock).announced += 1),
    |three, at| {
        let id = product(three, 1, at).id;
        three[1].products.retain(|product| product.id != id);
        (format!("product {id}"), "catalog")
    },
    |three, at| {
        let id = product(three, 2, at).id;
        three[2].products.retain(|product| product.id != id);
        (format!("product {id}"), "order")
    },
    |three, at| change_user(three, 1, at, |copy| copy.version -= 1),
    |three, at| change_user(three, 2, at, |copy| copy.deleted = true),
    |three, at| change_user(three, 2, at, |copy| copy.user.as_mut().unwrap().email.push('x')),
    |three, at| change_user(three, 1, at, |copy| copy.user.as_mut().unwrap().role = Role::Admin),
    |three, at| lose_user(three, 0, at, "catalog"),
    |three, at| lose_user(three, 2, at, "order"),
    |three, _| {
        let wrong = WrongTotal {
            id: 12,
            total_quantity: 2,
            items_quantity: 3,
            total_price: 1,
            items_price: 1,
        };
        three[2].summary.wrong_totals.push(wrong);
        ("order 12".to_owned(), "order")
    },
    |three, _| {
        three[0].summary.outbox_age_seconds = 61.0;
        ("outbox of the auth node".to_owned(), "auth")
    },
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn equal_snapshots_have_no_difference(three in snapshots()) {
        let ledger = ledger_of(&three);
        prop_assert!(ledger.balanced, "{ledger}");
        prop_assert_eq!(ledger.products.len(), three[1].products.len());
        let checksums: HashSet<_> = ledger.copies.iter().map(|of| (of.what, &of.checksum)).collect();
        prop_assert_eq!(checksums.len(), 2, "one of users, one of products");
    }

    #[test]
    fn a_changed_figure_is_a_difference_of_its_subject_and_node(mut three in snapshots(), at in 0..1000_usize) {
        for (index, change) in CHANGES.iter().enumerate() {
            let before = three.clone();
            let (subject, node) = change(&mut three, at);
            let ledger = ledger_of(&three);
            prop_assert!(!ledger.balanced, "change {index} is not found");
            let named = |of: &Difference| of.subject == subject && of.node == node;
            prop_assert!(ledger.differences.iter().any(named), "change {index}: {subject} on {node}: {ledger}");
            let others = ledger.differences.iter().find(|of| of.subject != subject);
            prop_assert!(others.is_none(), "change {index}: {ledger}");
            three = before;
        }
    }
}

#[tokio::test]
async fn a_difference_names_the_figures() {
    let mut three = agreeing(2, &[(37, 0), (37, 0)]);
    three[1].products[1].left = 36;
    let ledger = taken(&three).await;
    let said = ledger.differences.iter().map(Difference::to_string).collect::<Vec<_>>();
    assert_eq!(said, ["product 2: the catalog shows 36 left, its movements add up to 37"]);
    assert!(ledger.to_string().contains(&said[0]));
}

#[tokio::test]
async fn all_pages_are_compared() {
    let stock = vec![(5, 1); 2 * MAX_PAGE_ROWS as usize];
    let mut three = agreeing(MAX_PAGE_ROWS as u128 + 1, &stock);
    let ledger = taken(&three).await;
    assert!(ledger.balanced, "{ledger}");
    assert_eq!((ledger.products.len(), ledger.products_in_all), (MAX_PRODUCTS, stock.len()));
    assert!(
        ledger.copies.iter().any(|of| of.what == "users" && of.count == MAX_PAGE_ROWS as u64 + 1)
    );

    three[2].products.last_mut().unwrap().left += 1;
    let ledger = taken(&three).await;
    assert_eq!(ledger.differences.len(), 1);
    assert_eq!(ledger.products.len(), MAX_PRODUCTS + 1, "every product that differs is listed");

    three[2].products.clear();
    let ledger = taken(&three).await;
    assert_eq!(ledger.differences.len() + ledger.more_differences, stock.len());
    assert_eq!(ledger.differences.len(), MAX_DIFFERENCES);
}

#[tokio::test]
async fn an_event_in_flight_is_no_difference() {
    let [auth, catalog, order] = agreeing(3, &[(37, 1)]);
    let mut late = catalog.clone();
    late.products[0].sold = 0;
    let catalog = Changing(Mutex::new(Some(late)), catalog);
    let ledger = Ledger::take(&auth, &catalog, &order, Duration::from_secs(5)).await.unwrap();
    assert!(ledger.balanced, "{ledger}");
}
