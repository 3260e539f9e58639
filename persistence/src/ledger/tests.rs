use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Ordered, WrongTotal};
use crate::stock::Movement;
use crate::users::{Role, User};

/// Books that are made up.
#[derive(Debug, Clone, Default)]
struct MadeUp {
    users: Vec<UserRecord>,
    products: Vec<Stock>,
    summary: Summary,
}

fn page<T: Clone, I: Ord>(rows: &[T], id: impl Fn(&T) -> I, after: I, limit: i64) -> Vec<T> {
    let rest = rows.iter().filter(|row| id(row) > after);
    rest.take(limit as usize).cloned().collect()
}

impl Snapshot for MadeUp {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        Ok(page(&self.users, |person| person.id, after, limit))
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

/// Books that differ only when they are first looked at.
struct UnderWay(Mutex<Option<MadeUp>>, MadeUp);

impl UnderWay {
    fn now(&self) -> MadeUp {
        self.0.lock().unwrap().clone().unwrap_or_else(|| self.1.clone())
    }
}

impl Snapshot for UnderWay {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        self.now().users(after, limit).await
    }

    async fn products(&self, after: ProductId, limit: i64, before: Uuid) -> Result<Vec<Stock>> {
        self.now().products(after, limit, before).await
    }

    async fn movements(&self, after: Uuid, limit: i64) -> Result<Vec<Movement>> {
        self.now().movements(after, limit).await
    }

    /// What is read last.
    async fn summary(&self) -> Result<Summary> {
        let now = self.now();
        *self.0.lock().unwrap() = None;
        now.summary().await
    }
}

type Three = [MadeUp; 3];

async fn taken([auth, catalog, order]: &Three) -> Ledger {
    Ledger::take(auth, catalog, order, Duration::ZERO).await.unwrap()
}

fn ledger_of(three: &Three) -> Ledger {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(taken(three))
}

fn person(id: u128) -> UserRecord {
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

/// Three nodes' books that agree: of so many users, and of products with what was stocked and sold of each.
fn agreeing(users: u128, products: &[(i64, i64)]) -> Three {
    let users: Vec<_> = (0..users).map(person).collect();
    let product = |(id, (stocked, sold)): (ProductId, &(i64, i64))| on_catalog(id, *stocked, *sold);
    let products: Vec<_> = (1..).zip(products).map(product).collect();
    let ordered = products.iter().map(|stock| on_order(stock, stock.sold / 2)).collect();
    let summary = Summary::default();
    // Somebody who is gone is remembered where copies are.
    let gone = UserRecord { deleted: true, ..person(u128::from(u64::MAX)) };
    let copies: Vec<_> = users.iter().cloned().chain([gone]).collect();
    [
        MadeUp { users, products: vec![], summary: summary.clone() },
        MadeUp { users: copies.clone(), products, summary: summary.clone() },
        MadeUp { users: copies, products: ordered, summary },
    ]
}

fn some_books() -> impl Strategy<Value = Three> {
    let product = (0..1000_i64).prop_flat_map(|stocked| (Just(stocked), 0..=stocked));
    (1..40_u128, prop::collection::vec(product, 1..40))
        .prop_map(|(users, products)| agreeing(users, &products))
}

/// Changes one figure; says of what and on which node the difference is to be named.
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
    three[node].users.retain(|person| person.id != id);
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
    fn books_that_agree_balance(three in some_books()) {
        let ledger = ledger_of(&three);
        prop_assert!(ledger.balanced, "{ledger}");
        prop_assert_eq!(ledger.products.len(), three[1].products.len());
        let checksums: HashSet<_> = ledger.copies.iter().map(|of| (of.what, &of.checksum)).collect();
        prop_assert_eq!(checksums.len(), 2, "one of users, one of products");
    }

    #[test]
    fn one_changed_figure_is_found_and_named(mut three in some_books(), at in 0..1000_usize) {
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
async fn a_difference_is_said_plainly() {
    let mut three = agreeing(2, &[(37, 0), (37, 0)]);
    three[1].products[1].left = 36;
    let ledger = taken(&three).await;
    let said = ledger.differences.iter().map(Difference::to_string).collect::<Vec<_>>();
    assert_eq!(said, ["product 2: the catalog shows 36 left, its movements add up to 37"]);
    assert!(ledger.to_string().contains(&said[0]));
}

#[tokio::test]
async fn what_is_read_in_pages_is_read_whole() {
    let stock = vec![(5, 1); 2 * LONGEST_PAGE as usize];
    let mut three = agreeing(LONGEST_PAGE as u128 + 1, &stock);
    let ledger = taken(&three).await;
    assert!(ledger.balanced, "{ledger}");
    assert_eq!((ledger.products.len(), ledger.products_in_all), (MOST_LINES, stock.len()));
    assert!(
        ledger.copies.iter().any(|of| of.what == "users" && of.count == LONGEST_PAGE as u64 + 1)
    );

    three[2].products.last_mut().unwrap().left += 1;
    let ledger = taken(&three).await;
    assert_eq!(ledger.differences.len(), 1);
    assert_eq!(ledger.products.len(), MOST_LINES + 1, "whatever differs is shown");

    three[2].products.clear();
    let ledger = taken(&three).await;
    assert_eq!(ledger.differences.len() + ledger.more_differences, stock.len());
    assert_eq!(ledger.differences.len(), MOST_DIFFERENCES);
}

#[tokio::test]
async fn what_is_under_way_is_no_difference() {
    let [auth, catalog, order] = agreeing(3, &[(37, 1)]);
    let mut late = catalog.clone();
    late.products[0].sold = 0;
    let catalog = UnderWay(Mutex::new(Some(late)), catalog);
    let ledger = Ledger::take(&auth, &catalog, &order, Duration::from_secs(5)).await.unwrap();
    assert!(ledger.balanced, "{ledger}");
}
