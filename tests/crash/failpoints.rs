//! Reads the names of the failpoints from the sources. Every await on the path of a change must be
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// The sources on the path of a change, from the actor that handles the request to the actor of the
/// other node that applies the event.
const PATHS: [&str; 9] = [
    "actors/src/idempotency.rs",
    "actors/src/orders.rs",
    "messaging/src/consumer.rs",
    "messaging/src/relay.rs",
    "persistence/src/idempotency.rs",
    "persistence/src/orders.rs",
    "persistence/src/orders/placement.rs",
    "persistence/src/outbox.rs",
    "persistence/src/stock.rs",
];

/// The names of all failpoints, in alphabetical order. Fails if an await has no failpoint or if two
/// failpoints have the same name.
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
    let mut names = BTreeSet::new();
    let mut wrong = vec![];
    for (path, code) in sources {
        for (end, _) in code.match_indices(".await") {
            let awaited = code[..end].trim_end();
            match name(awaited) {
                Some(name) if names.insert(name.to_owned()) => {}
                Some(name) => wrong.push(format!("{path}: two failpoints have the name {name:?}")),
                None if is_followed(path, awaited, sources) => {}
                None => {
                    let end = end_of(awaited);
                    wrong.push(format!("{path}: an await without a failpoint: …{end}.await"));
                }
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "add a failpoint to each await, as in .failpoint(\"place: lock stock\").await:\n{}",
        wrong.join("\n")
    );
    Ok(names)
}

/// The source without comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let without_comment = |line: &str| {
        if line.trim_start().starts_with("//") {
            String::new()
        } else {
            line.split(" // ").next().unwrap_or_default().to_owned()
        }
    };
    text.lines().map(without_comment).collect::<Vec<_>>().join("\n")
}

/// The name in `….failpoint("name")`.
fn name(awaited: &str) -> Option<&str> {
    let (_, name) = awaited.strip_suffix("\")")?.rsplit_once(".failpoint(\"")?;
    (!name.contains('"')).then_some(name)
}

/// Whether the awaited call is a function of these sources, whose awaits have failpoints
/// themselves.
fn is_followed(path: &str, awaited: &str, sources: &BTreeMap<&str, String>) -> bool {
    let Some(callee) = callee(awaited) else { return false };
    let in_source = |path: &str, function: &str| {
        let defined = |code: &String| {
            [format!("async fn {function}("), format!("async fn {function}<")]
                .iter()
                .any(|definition| code.contains(definition))
        };
        sources.get(path).is_some_and(defined)
    };
    let (receiver, function) = match callee.rsplit_once(['.', ':']) {
        Some((receiver, function)) => (receiver.trim_end_matches(':'), function),
        None => ("", callee),
    };
    match receiver.rsplit('.').next().unwrap_or_default() {
        "self" | "session" => in_source(path, function),
        "" => in_source(path, function) || in_source("actors/src/idempotency.rs", function),
        "reader" | "Reader" => in_source("persistence/src/outbox.rs", function),
        module => {
            let (file, folder) =
                (format!("persistence/src/{module}.rs"), format!("persistence/src/{module}/"));
            let of_module = |path: &&&str| **path == file || path.starts_with(&folder);
            sources.keys().filter(of_module).any(|path| in_source(path, function))
        }
    }
}

/// The path of the called function: `orders::place` in `orders::place(&mut tx, &new)`, `self.find`
/// in `respond(reply, self.find(id)`.
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

/// The last characters of an expression, for an error message.
fn end_of(awaited: &str) -> &str {
    let start = awaited.char_indices().rev().nth(60).map_or(0, |(index, _)| index);
    awaited[start..].trim_start()
}

/// Tests of the parser. They run before the scenarios because this binary has no test harness.
pub fn check_parser() {
    let reads = |code: &str| read(&BTreeMap::from([("actors/src/orders.rs", code.to_owned())]));
    let named =
        "async fn place() { begin().failpoint(\"place: begin\").await?; self.place().await }";
    assert_eq!(reads(named).expect("valid source"), BTreeSet::from(["place: begin".to_owned()]));
    for bad in [
        "async fn place() { tokio::task::yield_now().await }",
        "async fn place() { let future = begin(); future.await }",
        "async fn apply() { self.subscription.handle(update).await }",
        "async fn a() { x().failpoint(\"a\").await; y().failpoint(\"a\").await }",
    ] {
        assert!(reads(bad).is_err(), "{bad}");
    }
}
