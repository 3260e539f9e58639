//! The ledger: the books of the three nodes laid side by side. Whatever does not add up is named.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Result;
use crate::catalog::ProductId;
use crate::snapshot::{FIRST, FIRST_PRODUCT, LONGEST_PAGE, Snapshot, Stock, Summary, UserRecord};
use crate::users::UserId;
use shop_runtime::now;

/// What was sold later than this ago may still be under way between the nodes, and is not compared.
const SETTLED: Duration = Duration::from_secs(5);

/// How often the books are looked at while they differ.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// An event that waits longer for the broker is a difference.
const OLD_EVENT_SECONDS: f64 = 60.0;

/// At most so many products that do not differ are shown.
const MOST_LINES: usize = 200;

/// At most so many differences are named; the others are counted.
const MOST_DIFFERENCES: usize = 1000;

/// What the books of a shop say, and what in them does not add up.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Ledger {
    /// Whether everything adds up.
    #[schema(example = true)]
    pub balanced: bool,
    /// Stock by product: the first 200, and all that differ.
    pub products: Vec<Line>,
    /// How many products there are.
    #[schema(example = 1)]
    pub products_in_all: usize,
    /// How many users and products each node knows, and a checksum of what it knows of them.
    pub copies: Vec<Copied>,
    /// What waits in each node's outbox.
    pub outboxes: Vec<Outbox>,
    /// What is worth knowing and no difference.
    pub notes: Vec<String>,
    /// What does not add up.
    pub differences: Vec<Difference>,
    /// How many more differences there are than are named.
    #[schema(example = 0)]
    pub more_differences: usize,
}

/// A product's stock on both nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Line {
    /// Which product.
    #[schema(example = 7)]
    pub product_id: ProductId,
    /// Its name.
    #[schema(example = "Blue teapot")]
    pub name: String,
    /// The catalog's figures.
    pub catalog: Option<Figures>,
    /// The order node's figures.
    pub order: Option<Figures>,
}

/// A product's stock on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Figures {
    /// How many were ever stocked.
    #[schema(example = 37)]
    pub stocked: i64,
    /// How many were sold, by its movements; what was sold just now may be known to one node alone.
    #[schema(example = 1)]
    pub sold: i64,
    /// How many are left.
    #[schema(example = 36)]
    pub left: i64,
}

impl From<&Stock> for Figures {
    fn from(Stock { stocked, moved, left, .. }: &Stock) -> Figures {
        Figures { stocked: *stocked, sold: stocked - moved, left: *left }
    }
}

/// How many of something a node knows, and a checksum of what it knows of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Copied {
    /// Of what.
    #[schema(example = "users")]
    pub what: &'static str,
    /// Which node.
    #[schema(example = "catalog")]
    pub node: &'static str,
    /// How many.
    #[schema(example = 3)]
    pub count: u64,
    /// Equal where the same is known.
    #[schema(example = "9e3779b97f4a7c15")]
    pub checksum: String,
}

/// What waits in a node's outbox.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Outbox {
    /// Which node.
    #[schema(example = "order")]
    pub node: &'static str,
    /// How many events the broker has not confirmed.
    #[schema(example = 0)]
    pub length: i64,
    /// How many seconds the oldest of them has waited.
    #[schema(example = 0.0)]
    pub age_seconds: f64,
}

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// What differs.
    #[schema(example = "product 7")]
    pub subject: String,
    /// On which node it was seen.
    #[serde(rename = "where")]
    #[schema(example = "catalog")]
    pub node: &'static str,
    /// How.
    #[schema(example = "the catalog shows 36 left, its movements add up to 37")]
    pub detail: String,
}

impl Difference {
    fn new(subject: impl Display, node: &'static str, detail: String) -> Difference {
        Difference { subject: subject.to_string(), node, detail }
    }

    /// What makes two looks' differences the same one.
    fn key(&self) -> (String, &'static str) {
        (self.subject.clone(), self.node)
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.detail)
    }
}

impl Ledger {
    /// Compares the books of the auth, the catalog and the order node. What is under way between them may differ for
    /// a moment: it looks again for at most `patience`, and reports what differed whenever it looked.
    ///
    /// # Errors
    /// When one of the books cannot be read.
    pub async fn take(
        auth: &impl Snapshot,
        catalog: &impl Snapshot,
        order: &impl Snapshot,
        patience: Duration,
    ) -> Result<Ledger> {
        let until = Instant::now() + patience;
        let mut ledger = look(auth, catalog, order).await?;
        let mut lasting: HashSet<_> = ledger.differences.iter().map(Difference::key).collect();
        while !lasting.is_empty() && Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
            ledger = look(auth, catalog, order).await?;
            let now: HashSet<_> = ledger.differences.iter().map(Difference::key).collect();
            lasting.retain(|key| now.contains(key));
        }
        ledger.differences.retain(|difference| lasting.contains(&difference.key()));
        ledger.more_differences *= usize::from(!lasting.is_empty());
        ledger.balanced = ledger.differences.is_empty();
        Ok(ledger)
    }

    fn name(&mut self, differences: impl IntoIterator<Item = Difference>) {
        for difference in differences {
            match self.differences.len() < MOST_DIFFERENCES {
                true => self.differences.push(difference),
                false => self.more_differences += 1,
            }
        }
    }
}

/// Reads all books once.
async fn look(
    auth: &impl Snapshot,
    catalog: &impl Snapshot,
    order: &impl Snapshot,
) -> Result<Ledger> {
    let mut ledger = Ledger {
        balanced: true,
        products: vec![],
        products_in_all: 0,
        copies: vec![],
        outboxes: vec![],
        notes: vec![],
        differences: vec![],
        more_differences: 0,
    };
    look_at_products(&mut ledger, catalog, order).await?;
    look_at_people(&mut ledger, auth, catalog, order).await?;
    for (node, summary) in [
        ("auth", auth.summary().await?),
        ("catalog", catalog.summary().await?),
        ("order", order.summary().await?),
    ] {
        ledger.name(differences_within(node, &summary));
        let Summary { outbox_length: length, outbox_age_seconds: age_seconds, .. } = summary;
        ledger.outboxes.push(Outbox { node, length, age_seconds });
    }
    Ok(ledger)
}

async fn look_at_products(
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
        let differences = differences_of_product(id, catalog.as_ref(), order.as_ref());
        ledger.products_in_all += 1;
        let wanted = match differences.is_empty() {
            true => ledger.products.len() < MOST_LINES,
            false => ledger.differences.len() < MOST_DIFFERENCES,
        };
        if wanted && let Some(stock) = catalog.as_ref().or(order.as_ref()) {
            let [catalog, order] = [&catalog, &order].map(|on| on.as_ref().map(Figures::from));
            ledger.products.push(Line { product_id: id, name: stock.name.clone(), catalog, order });
        }
        ledger.name(differences);
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

async fn look_at_people(
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
        for (checksum, person) in checksums.iter_mut().zip(&users) {
            if let Some(person) = person.as_ref().filter(|person| !person.deleted) {
                checksum.add(person);
            }
        }
        let [user, catalog, order] = users.each_ref().map(Option::as_ref);
        ledger.name(difference_of_person(id, user, "catalog", catalog));
        ledger.name(difference_of_person(id, user, "order", order));
    }
    let nodes = ["auth", "catalog", "order"].into_iter().zip(checksums);
    ledger.copies.extend(nodes.map(|(node, checksum)| checksum.of("users", node)));
    Ok(())
}

/// How a node is called in a sentence.
fn named(node: &str) -> &'static str {
    match node {
        "auth" => "the auth node",
        "catalog" => "the catalog",
        _ => "the order node",
    }
}

/// What does not add up about a product.
fn differences_of_product(
    id: ProductId,
    catalog: Option<&Stock>,
    order: Option<&Stock>,
) -> Vec<Difference> {
    let subject = format!("product {id}");
    let mut differences = vec![];
    let mut differ = |node, detail| differences.push(Difference::new(&subject, node, detail));
    for (node, stock) in [("catalog", catalog), ("order", order)] {
        let Some(Stock { left, moved, .. }) = stock else { continue };
        let name = named(node);
        if left != moved {
            differ(node, format!("{name} shows {left} left, its movements add up to {moved}"));
        }
        if *left < 0 {
            differ(node, format!("{name} shows {left} left: more was sold than stocked"));
        }
    }
    if let Some(Stock { stocked, orders: Some(orders), .. }) = order {
        let (ordered, placed, announced) = (orders.ordered, orders.placed, orders.announced);
        if ordered != placed {
            differ("order", format!("orders name {ordered} pieces, their movements took {placed}"));
        }
        if announced != *stocked {
            differ(
                "order",
                format!(
                    "{announced} were announced, {stocked} stocked by the order node's movements"
                ),
            );
        }
    }
    match (catalog, order) {
        (Some(catalog), Some(order)) => {
            for (what, catalog, order) in [
                ("version", catalog.version, order.version),
                ("price", catalog.price, order.price),
                ("category", catalog.category_id, order.category_id),
            ] {
                if catalog != order {
                    differ(
                        "order",
                        format!("the catalog has {what} {catalog}, the order node {order}"),
                    );
                }
            }
            if catalog.name != order.name {
                let (catalog, order) = (&catalog.name, &order.name);
                differ(
                    "order",
                    format!("the catalog calls it '{catalog}', the order node '{order}'"),
                );
            }
            for (what, node, catalog, order) in [
                ("stocked", "order", catalog.stocked, order.stocked),
                ("sold", "catalog", catalog.sold, order.sold),
            ] {
                if catalog != order {
                    differ(
                        node,
                        format!(
                            "{catalog} {what} by the catalog's movements, {order} by the order node's"
                        ),
                    );
                }
            }
        }
        (Some(_), None) => {
            differ("order", "the catalog has it, the order node does not".to_owned());
        }
        (None, Some(_)) => {
            differ("catalog", "the order node has it, the catalog does not".to_owned());
        }
        (None, None) => {}
    }
    differences
}

/// How a node's copy of a user differs from the auth node's user, if it does.
fn difference_of_person(
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

fn about(person: &UserRecord) -> String {
    match &person.user {
        Some(user) => format!("{} <{}> {:?}", user.username, user.email, user.role),
        None => "nothing".to_owned(),
    }
}

/// What does not add up within one node.
fn differences_within(node: &'static str, summary: &Summary) -> Vec<Difference> {
    let wrong = summary.wrong_totals.iter().map(|order| {
        let quantity = (order.total_quantity, order.items_quantity);
        let price = (order.total_price, order.items_price);
        let detail = format!(
            "it says {} pieces for {}, its items add up to {} for {}",
            quantity.0, price.0, quantity.1, price.1
        );
        Difference::new(format_args!("order {}", order.id), node, detail)
    });
    let mut differences: Vec<_> = wrong.collect();
    let Summary { outbox_length: length, outbox_age_seconds: age, .. } = summary;
    if *age > OLD_EVENT_SECONDS {
        let detail = format!("{length} events wait for the broker, the oldest for {age:.0} s");
        let subject = format_args!("outbox of {}", named(node)).to_string();
        differences.push(Difference::new(subject, node, detail));
    }
    differences
}

/// The first id that a movement made five seconds ago could have.
fn settled() -> Uuid {
    let millis = u64::try_from((now() - SETTLED).as_millisecond()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

fn least<T: Ord, const N: usize>(ids: [Option<T>; N]) -> Option<T> {
    ids.into_iter().flatten().min()
}

/// Something that books are made of.
trait Row: Sized {
    type Id: Ord + Copy;
    const FIRST: Self::Id;
    fn id(&self) -> Self::Id;
    async fn page(snapshot: &impl Snapshot, after: Self::Id, before: Uuid) -> Result<Vec<Self>>;
}

impl Row for UserRecord {
    type Id = UserId;
    const FIRST: UserId = FIRST;

    fn id(&self) -> UserId {
        self.id
    }

    async fn page(snapshot: &impl Snapshot, after: UserId, _: Uuid) -> Result<Vec<UserRecord>> {
        snapshot.users(after, LONGEST_PAGE).await
    }
}

impl Row for Stock {
    type Id = ProductId;
    const FIRST: ProductId = FIRST_PRODUCT;

    fn id(&self) -> ProductId {
        self.id
    }

    async fn page(snapshot: &impl Snapshot, after: ProductId, before: Uuid) -> Result<Vec<Stock>> {
        snapshot.products(after, LONGEST_PAGE, before).await
    }
}

/// The rows of some books, one after the other, of which one page is held.
struct Rows<'b, B, R: Row> {
    snapshot: &'b B,
    before: Uuid,
    page: std::iter::Peekable<std::vec::IntoIter<R>>,
    after: R::Id,
    ended: bool,
}

impl<'b, B: Snapshot, R: Row> Rows<'b, B, R> {
    fn of(snapshot: &'b B, before: Uuid) -> Rows<'b, B, R> {
        let page = vec![].into_iter().peekable();
        Rows { snapshot, before, page, after: R::FIRST, ended: false }
    }

    /// The id of the next row, if there is one.
    async fn next_id(&mut self) -> Result<Option<R::Id>> {
        if self.page.peek().is_none() && !self.ended {
            let page = R::page(self.snapshot, self.after, self.before).await?;
            self.ended = (page.len() as i64) < LONGEST_PAGE;
            self.after = page.last().map_or(self.after, R::id);
            self.page = page.into_iter().peekable();
        }
        Ok(self.page.peek().map(R::id))
    }

    /// The next row, if it has this id.
    fn take(&mut self, id: R::Id) -> Option<R> {
        self.page.next_if(|row| row.id().cmp(&id) == Ordering::Equal)
    }
}

/// Equal for equal rows in the same order, within one program.
#[derive(Default)]
struct Checksum {
    count: u64,
    hasher: DefaultHasher,
}

impl Checksum {
    fn add(&mut self, row: impl Hash) {
        self.count += 1;
        row.hash(&mut self.hasher);
    }

    fn of(self, what: &'static str, node: &'static str) -> Copied {
        let checksum = format!("{:016x}", self.hasher.finish());
        Copied { what, node, count: self.count, checksum }
    }
}

/// A table for people.
impl Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |figures: Option<Figures>, figure: fn(&Figures) -> i64| match &figures {
            Some(figures) => figure(figures).to_string(),
            None => "-".to_owned(),
        };
        writeln!(
            f,
            "{:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "product", "stocked", "(order)", "sold", "(order)", "left", "(order)"
        )?;
        for Line { product_id, name, catalog, order } in &self.products {
            let figures: [fn(&Figures) -> i64; 3] = [|of| of.stocked, |of| of.sold, |of| of.left];
            write!(f, "{product_id:>10}")?;
            for figure in figures {
                write!(f, " {:>10} {:>10}", show(*catalog, figure), show(*order, figure))?;
            }
            writeln!(f, "  {name}")?;
        }
        if self.products.len() < self.products_in_all {
            writeln!(f, "{:>10} of {} products", self.products.len(), self.products_in_all)?;
        }
        writeln!(f)?;
        for Copied { what, node, count, checksum } in &self.copies {
            writeln!(f, "{what:>10} {node:>12} {count:>12} {checksum:>25}")?;
        }
        for Outbox { node, length, age_seconds } in &self.outboxes {
            writeln!(f, "{:>10} {node:>12} {length:>12} {age_seconds:>23.1} s", "outbox")?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        if self.more_differences > 0 {
            writeln!(f, "and {} more differences", self.more_differences)?;
        }
        match self.differences.len() + self.more_differences {
            0 => writeln!(f, "the books balance"),
            1 => writeln!(f, "1 difference"),
            many => writeln!(f, "{many} differences"),
        }
    }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
