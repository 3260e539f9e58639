//! Which crash points there are, read from the sources: every await on the way of a change must be one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// The sources that a change goes through, from the owner that is asked to the owner on the other node.
const PATHS: [&str; 8] = [
    "actors/src/idempotency.rs",
    "actors/src/orders.rs",
    "messaging/src/consumer.rs",
    "messaging/src/relay.rs",
    "persistence/src/idempotency.rs",
    "persistence/src/orders.rs",
    "persistence/src/outbox.rs",
    "persistence/src/stock.rs",
];

/// Every crash point, in alphabetical order.
///
/// # Errors
/// Names each await that has no name, and each name that two have.
pub fn all() -> anyhow::Result<BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = BTreeMap::new();
    for path in PATHS {
        let text = fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
        sources.insert(path, code(&text));
    }
    read(&sources)
}

fn read(sources: &BTreeMap<&str, String>) -> anyhow::Result<BTreeSet<String>> {
    let mut points = BTreeSet::new();
    let mut wrong = vec![];
    for (path, code) in sources {
        for (end, _) in code.match_indices(".await") {
            let awaited = code[..end].trim_end();
            match name(awaited) {
                Some(name) if points.insert(name.to_owned()) => {}
                Some(name) => wrong.push(format!("{path}: two awaits are called {name:?}")),
                None if leads_on(path, awaited, sources) => {}
                None => {
                    wrong.push(format!("{path}: an await has no name: …{}.await", last(awaited)))
                }
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "name each await, as in .failpoint(\"place: lock shelf\").await:\n{}",
        wrong.join("\n")
    );
    Ok(points)
}

/// Without comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let line = |line: &str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => line.split(" // ").next().unwrap_or_default().to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// `….at("name")`
fn name(awaited: &str) -> Option<&str> {
    let (_, name) = awaited.strip_suffix("\")")?.rsplit_once(".failpoint(\"")?;
    (!name.contains('"')).then_some(name)
}

/// Whether it awaits a function of these sources: the awaits in that have names of their own.
fn leads_on(path: &str, awaited: &str, sources: &BTreeMap<&str, String>) -> bool {
    let Some(callee) = callee(awaited) else { return false };
    let in_source = |path: &str, function: &str| {
        let defined = |code: &String| {
            [format!("async fn {function}("), format!("async fn {function}<")]
                .iter()
                .any(|definition| code.contains(definition))
        };
        sources.get(path).is_some_and(defined)
    };
    let (place, function) = match callee.rsplit_once(['.', ':']) {
        Some((place, function)) => (place.trim_end_matches(':'), function),
        None => ("", callee),
    };
    match place {
        "self" => in_source(path, function),
        "" => in_source(path, function) || in_source("actors/src/idempotency.rs", function),
        "reader" | "Reader" => in_source("persistence/src/outbox.rs", function),
        module => in_source(&format!("persistence/src/{module}.rs"), function),
    }
}

/// `orders::place` of `orders::place(&mut tx, &new)`, `self.find` of `respond(reply, self.find(id)`.
fn callee(awaited: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let (open, _) = awaited.char_indices().rev().find(|(_, c)| {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    let before = &awaited[..open];
    let part = |c: char| c.is_alphanumeric() || ['_', '.', ':'].contains(&c);
    let start = before.rfind(|c| !part(c)).map_or(0, |index| index + 1);
    Some(&before[start..])
}

fn last(awaited: &str) -> &str {
    let start = awaited.char_indices().rev().nth(60).map_or(0, |(index, _)| index);
    awaited[start..].trim_start()
}

/// What must hold of the reading itself; there is no other test harness here.
pub fn check() {
    let reads = |code: &str| read(&BTreeMap::from([("actors/src/orders.rs", code.to_owned())]));
    let named =
        "async fn place() { begin().failpoint(\"place: begin\").await?; self.place().await }";
    assert_eq!(reads(named).expect("good"), BTreeSet::from(["place: begin".to_owned()]));
    for bad in [
        "async fn place() { tokio::task::yield_now().await }",
        "async fn place() { let it = begin(); it.await }",
        "async fn tell() { self.desk.tell(news).await }",
        "async fn a() { x().failpoint(\"a\").await; y().failpoint(\"a\").await }",
    ] {
        assert!(reads(bad).is_err(), "{bad}");
    }
}
