//! Import cycles between the modules of one crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{CRATES, files, read, report, without_comments_and_literals};

/// Imports among modules: module path to the module paths that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// `src/rabbit/session.rs` is `rabbit::session`; the crate root is empty.
fn module(file: &str, folder: &str) -> String {
    let path = file.trim_start_matches(&format!("{folder}/src/")).trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    if path == "lib" || path == "main" { String::new() } else { path.replace('/', "::") }
}

/// The paths that start with `crate::` or `super::`, groups expanded: `{a::B, c}` gives both.
fn paths(code: &str, of: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, keyword) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut rest = &code[start + keyword.len()..];
        let mut base = if keyword == "crate::" { String::new() } else { parent(of) };
        while let Some(inner) = rest.strip_prefix("super::") {
            base = parent(&base);
            rest = inner;
        }
        let prefix = if base.is_empty() { String::new() } else { format!("{base}::") };
        expand(rest, &prefix, &mut found);
    }
    found
}

fn parent(module: &str) -> String {
    module.rsplit_once("::").map_or(String::new(), |(parent, _)| parent.to_owned())
}

/// Expands a use tree into the paths it names.
fn expand(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let (path, rest) = tree.split_at(end.unwrap_or(tree.len()));
    let prefix = format!("{prefix}{path}");
    if !rest.starts_with('{') {
        found.push(prefix);
        return;
    }
    let mut depth = 0;
    let mut start = 1;
    for (at, character) in rest.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (character == ',' && depth == 1) || depth == 0 {
            expand(rest[start..at].trim(), &prefix, found);
            start = at + 1;
        }
        if depth == 0 {
            return;
        }
    }
}

fn graph(folder: &str) -> Graph {
    let sources: Vec<String> = files(&["rs"])
        .into_iter()
        .filter(|file| file.starts_with(&format!("{folder}/src/")))
        .collect();
    let modules: BTreeSet<String> = sources.iter().map(|file| module(file, folder)).collect();
    let mut graph = Graph::new();
    for file in &sources {
        let of = module(file, folder);
        let code = without_comments_and_literals(&read(file));
        // A test module at the end of a file may import anything.
        let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or(&code);
        let named = paths(code, &of).into_iter().filter_map(|path| longest(&path, &modules));
        graph.entry(of.clone()).or_default().extend(named.filter(|to| *to != of));
    }
    graph
}

/// The longest prefix of the path that is a module. Items of the crate root are re-exports: they do
/// not count as imports of the root.
fn longest(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut path = path.trim_end_matches(':').to_owned();
    while !path.is_empty() {
        if modules.contains(&path) {
            return Some(path);
        }
        path = parent(&path);
    }
    None
}

fn related(a: &str, b: &str) -> bool {
    a.starts_with(&format!("{b}::")) || b.starts_with(&format!("{a}::"))
}

/// The modules on a path from `from` back to itself that is not only between a parent and its child.
fn cycle(graph: &Graph, from: &str) -> Option<Vec<String>> {
    let mut stack = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(path) = stack.pop() {
        for to in graph.get(path.last()?).into_iter().flatten() {
            if related(path.last()?, to) {
                continue;
            }
            if to == from {
                return Some(path);
            }
            if seen.insert(to.clone()) {
                let mut longer = path.clone();
                longer.push(to.clone());
                stack.push(longer);
            }
        }
    }
    None
}

#[test]
fn modules_import_each_other_without_cycles() {
    let mut findings = BTreeSet::new();
    for folder in CRATES {
        let graph = graph(folder);
        for module in graph.keys() {
            if let Some(mut cycle) = cycle(&graph, module) {
                cycle.sort();
                findings.insert(format!("{folder}: {}", cycle.join(", ")));
            }
        }
    }
    report("import cycles", &findings.into_iter().collect::<Vec<_>>());
}

#[test]
fn use_trees_are_expanded() {
    let mut found = Vec::new();
    expand("a::{b, c::{D, e}, f}", "", &mut found);
    assert_eq!(found, ["a::b", "a::c::D", "a::c::e", "a::f"]);
}
