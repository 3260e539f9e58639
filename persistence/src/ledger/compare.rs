//! One comparison of the three snapshots.

use std::time::Duration;

use shop_runtime::now;
use uuid::Uuid;

use super::rows::{Checksum, Rows};
use super::{
    Difference, Ledger, MAX_DIFFERENCES, MAX_PRODUCTS, OutboxBacklog, ProductFigures, StockFigures,
};
use crate::Result;
use crate::ids::{ProductId, UserId};
use crate::snapshot::{FIRST, Snapshot, Stock, Summary, UserRecord};

/// Sales of the last 5 seconds are not compared: their events may be in flight.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// An event that waits longer for the broker is a difference.
const MAX_EVENT_AGE_SECONDS: f64 = 60.0;

/// Reads and compares the snapshots once.
pub(super) async fn compare(
    auth: &impl Snapshot,
    catalog: &impl Snapshot,
    order: &impl Snapshot,
) -> Result<Ledger> {
    let mut ledger = Ledger { balanced: true, ..Ledger::default() };
    compare_products(&mut ledger, catalog, order).await?;
    compare_users(&mut ledger, auth, catalog, order).await?;
    for (node, summary) in [
        ("auth", auth.summary().await?),
        ("catalog", catalog.summary().await?),
        ("order", order.summary().await?),
    ] {
        ledger.add(differences_within(node, &summary));
        let Summary { outbox_length: length, outbox_age_seconds: age_seconds, .. } = summary;
        ledger.outboxes.push(OutboxBacklog { node, length, age_seconds });
    }
    Ok(ledger)
}

async fn compare_products(
    ledger: &mut Ledger,
    catalog: &impl Snapshot,
    order: &impl Snapshot,
) -> Result<()> {
    let before = settled();
    let mut catalog = Rows::<_, Stock>::of(catalog, before);
    let mut order = Rows::<_, Stock>::of(order, before);
    let mut checksums = [Checksum::default(), Checksum::default()];
    let mut taken_over = 0;
    while let Some(id) = least([catalog.next_id().await?, order.next_id().await?]) {
        let (catalog, order) = (catalog.take(id), order.take(id));
        for (checksum, stock) in checksums.iter_mut().zip([&catalog, &order]) {
            if let Some(Stock { id, name, price, category_id, version, stocked, .. }) = stock {
                checksum.add((id, name, price, category_id, version, stocked));
            }
        }
        let orders = order.as_ref().and_then(|order| order.orders.as_ref());
        taken_over += orders.map_or(0, |orders| orders.taken_over);
        add_product(ledger, id, catalog.as_ref(), order.as_ref());
    }
    let nodes = ["catalog", "order"].into_iter().zip(checksums);
    ledger.copies.extend(nodes.map(|(node, checksum)| checksum.of("products", node)));
    if taken_over != 0 {
        ledger.notes.push(format!(
            "{taken_over} pieces were sold to orders that the order node's database no longer has"
        ));
    }
    Ok(())
}

fn add_product(
    ledger: &mut Ledger,
    product_id: ProductId,
    catalog: Option<&Stock>,
    order: Option<&Stock>,
) {
    let differences = differences_of_product(product_id, catalog, order);
    ledger.products_in_all += 1;
    let listed = if differences.is_empty() {
        ledger.products.len() < MAX_PRODUCTS
    } else {
        ledger.differences.len() < MAX_DIFFERENCES
    };
    if listed && let Some(stock) = catalog.or(order) {
        let [catalog, order] = [catalog, order].map(|stock| stock.map(StockFigures::from));
        ledger.products.push(ProductFigures {
            product_id,
            name: stock.name.clone(),
            catalog,
            order,
        });
    }
    ledger.add(differences);
}

async fn compare_users(
    ledger: &mut Ledger,
    auth: &impl Snapshot,
    catalog: &impl Snapshot,
    order: &impl Snapshot,
) -> Result<()> {
    let mut auth = Rows::<_, UserRecord>::of(auth, FIRST);
    let mut catalog = Rows::<_, UserRecord>::of(catalog, FIRST);
    let mut order = Rows::<_, UserRecord>::of(order, FIRST);
    let mut checksums = [Checksum::default(), Checksum::default(), Checksum::default()];
    while let Some(id) =
        least([auth.next_id().await?, catalog.next_id().await?, order.next_id().await?])
    {
        let users = [auth.take(id), catalog.take(id), order.take(id)];
        for (checksum, user) in checksums.iter_mut().zip(&users) {
            if let Some(user) = user.as_ref().filter(|user| !user.deleted) {
                checksum.add(user);
            }
        }
        let [user, catalog, order] = users.each_ref().map(Option::as_ref);
        ledger.add(difference_of_user(id, user, "catalog", catalog));
        ledger.add(difference_of_user(id, user, "order", order));
    }
    let nodes = ["auth", "catalog", "order"].into_iter().zip(checksums);
    ledger.copies.extend(nodes.map(|(node, checksum)| checksum.of("users", node)));
    Ok(())
}

/// The name of a node in a sentence.
fn named(node: &str) -> &'static str {
    match node {
        "auth" => "the auth node",
        "catalog" => "the catalog",
        _ => "the order node",
    }
}

/// How a product differs within a node and between the nodes.
fn differences_of_product(
    id: ProductId,
    catalog: Option<&Stock>,
    order: Option<&Stock>,
) -> Vec<Difference> {
    let stocks = [("catalog", catalog), ("order", order)];
    let mut details: Vec<_> = stocks
        .into_iter()
        .filter_map(|(node, stock)| Some((node, stock?)))
        .flat_map(|(node, stock)| stock_within(node, stock))
        .collect();
    match (catalog, order) {
        (Some(catalog), Some(order)) => details.extend(stock_between(catalog, order)),
        (Some(_), None) => {
            details.push(("order", "the catalog has it, the order node does not".to_owned()));
        }
        (None, Some(_)) => {
            details.push(("catalog", "the order node has it, the catalog does not".to_owned()));
        }
        (None, None) => {}
    }
    let subject = format!("product {id}");
    let difference = |(node, detail)| Difference::new(&subject, node, detail);
    details.into_iter().map(difference).collect()
}

/// A difference's node and detail.
type Detail = (&'static str, String);

/// The figures of one node that should be equal.
fn stock_within(node: &'static str, stock: &Stock) -> Vec<Detail> {
    let mut details = vec![];
    let name = named(node);
    let Stock { left, moved, stocked, .. } = stock;
    if left != moved {
        details.push(format!("{name} shows {left} left, its movements add up to {moved}"));
    }
    if *left < 0 {
        details.push(format!("{name} shows {left} left: more was sold than stocked"));
    }
    if let Some(orders) = &stock.orders {
        let (ordered, placed, announced) = (orders.ordered, orders.placed, orders.announced);
        if ordered != placed {
            details.push(format!("orders name {ordered} pieces, their movements took {placed}"));
        }
        if announced != *stocked {
            details.push(format!(
                "{announced} were announced, {stocked} stocked by the order node's movements"
            ));
        }
    }
    details.into_iter().map(|detail| (node, detail)).collect()
}

/// The figures of the catalog and the order node that should be equal.
fn stock_between(catalog: &Stock, order: &Stock) -> Vec<Detail> {
    let mut details = vec![];
    for (what, catalog, order) in [
        ("version", catalog.version, order.version),
        ("price", catalog.price, order.price),
        ("category", catalog.category_id, order.category_id),
    ] {
        if catalog != order {
            let detail = format!("the catalog has {what} {catalog}, the order node {order}");
            details.push(("order", detail));
        }
    }
    if catalog.name != order.name {
        let (catalog, order) = (&catalog.name, &order.name);
        let detail = format!("the catalog has the name '{catalog}', the order node '{order}'");
        details.push(("order", detail));
    }
    for (what, node, catalog, order) in [
        ("stocked", "order", catalog.stocked, order.stocked),
        ("sold", "catalog", catalog.sold, order.sold),
    ] {
        if catalog != order {
            let order = format!("{order} by the order node's");
            details.push((node, format!("{catalog} {what} by the catalog's movements, {order}")));
        }
    }
    details
}

/// How a node's copy of a user differs from the auth node's user, if it does.
fn difference_of_user(
    id: UserId,
    user: Option<&UserRecord>,
    node: &'static str,
    copy: Option<&UserRecord>,
) -> Option<Difference> {
    let name = named(node);
    let detail = match (user, copy) {
        (None, None) => return None,
        (None, Some(copy)) if copy.deleted => return None,
        (None, Some(_)) => format!("{name} has it, the auth node does not"),
        (Some(_), None) => format!("the auth node has it, {name} does not"),
        (Some(_), Some(copy)) if copy.deleted => {
            format!("the auth node has it, {name} says that it is deleted")
        }
        (Some(user), Some(copy)) if user.version != copy.version => {
            format!("the auth node has version {}, {name} {}", user.version, copy.version)
        }
        (Some(user), Some(copy)) if user != copy => {
            format!("the auth node says {}, {name} {}", about(user), about(copy))
        }
        (Some(_), Some(_)) => return None,
    };
    Some(Difference::new(format_args!("user {id}"), node, detail))
}

fn about(record: &UserRecord) -> String {
    match &record.user {
        Some(user) => format!("{} <{}> {:?}", user.username, user.email, user.role),
        None => "nothing".to_owned(),
    }
}

/// The differences that one node's summary contains.
fn differences_within(node: &'static str, summary: &Summary) -> Vec<Difference> {
    let wrong = summary.wrong_totals.iter().map(|order| {
        let detail = format!(
            "it says {} pieces for {}, its items add up to {} for {}",
            order.total_quantity, order.total_price, order.items_quantity, order.items_price
        );
        Difference::new(format_args!("order {}", order.id), node, detail)
    });
    let mut differences: Vec<_> = wrong.collect();
    let Summary { outbox_length: length, outbox_age_seconds: age, .. } = summary;
    if *age > MAX_EVENT_AGE_SECONDS {
        let detail = format!("{length} events wait for the broker, the oldest for {age:.0} s");
        let subject = format!("outbox of {}", named(node));
        differences.push(Difference::new(subject, node, detail));
    }
    differences
}

/// The first id that a movement could have that was made [`SETTLE_TIME`] ago.
fn settled() -> Uuid {
    let millis = u64::try_from((now() - SETTLE_TIME).as_millisecond()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

fn least<T: Ord, const N: usize>(ids: [Option<T>; N]) -> Option<T> {
    ids.into_iter().flatten().min()
}
