//! The map: dependencies between the crates, and which crate may use which library.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{CRATES, files, read, report, without_comments_and_literals, words};

/// Libraries that are named in one crate's row of the map, and the crates that may also use them.
/// Tests use any of them.
const LIBRARIES: [(&str, &[&str]); 5] = [
    ("ractor", &["actors/runtime"]),
    ("sqlx", &["persistence"]),
    ("amqprs", &["messaging"]),
    ("axum", &["http"]),
    ("opentelemetry", &["supervisor"]),
];

/// The table under `## Map` in ARCHITECTURE.md: folder, package, dependencies, library.
fn table() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let page = read("ARCHITECTURE.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Map")).expect("## Map");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let folder = cells[1].split('`').nth(1).expect("a folder").trim_end_matches('/');
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (folder.to_owned(), (names(cells[3]), names(cells[4])))
    })
    .collect()
}

fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{name}]");
    manifest
        .lines()
        .skip_while(move |line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
}

#[test]
fn the_map_lists_every_crate_of_the_workspace() {
    let listed: BTreeSet<String> = table().into_keys().collect();
    assert_eq!(listed, CRATES.map(str::to_owned).into(), "table in ARCHITECTURE.md");
    let workspace = read("Cargo.toml");
    for folder in CRATES {
        assert!(workspace.contains(&format!("\"{folder}\"")), "{folder} is no workspace member");
    }
}

#[test]
fn the_map_names_the_dependencies_of_the_manifests() {
    for (folder, (dependencies, _)) in table() {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let actual: BTreeSet<String> = section(&manifest, "dependencies")
            .filter(|name| name.starts_with("shop-"))
            .map(str::to_owned)
            .collect();
        assert_eq!(dependencies, actual, "{folder}: ARCHITECTURE.md and Cargo.toml");
    }
}

#[test]
fn one_crate_alone_uses_each_library_of_the_map() {
    let table = table();
    let mut findings = Vec::new();
    for (library, owners) in LIBRARIES {
        for owner in owners {
            let named = table[*owner].1.iter().any(|name| name.starts_with(library));
            assert!(named, "the row of {owner} in ARCHITECTURE.md does not name {library}");
        }
        for folder in CRATES.into_iter().filter(|folder| *folder != "tests") {
            if owners.contains(&folder) {
                continue;
            }
            let manifest = read(&format!("{folder}/Cargo.toml"));
            for name in section(&manifest, "dependencies").filter(|name| is(name, library)) {
                findings.push(format!("{folder}/Cargo.toml depends on {name}"));
            }
            for file in files(&["rs"]) {
                if file.starts_with(&format!("{folder}/src/")) && uses(&file, library) {
                    findings.push(format!("{file} uses {library}"));
                }
            }
        }
    }
    report("libraries outside the crate that the map names", &findings);
}

/// Whether a package belongs to a library: `opentelemetry-otlp` belongs to `opentelemetry`.
fn is(package: &str, library: &str) -> bool {
    package == library
        || package.starts_with(&format!("{library}-"))
        || package.starts_with(&format!("{library}_"))
}

fn uses(file: &str, library: &str) -> bool {
    let code = without_comments_and_literals(&read(file));
    let path = format!("{library}::");
    code.contains(&path) && words(&code).any(|word| word == library)
}

#[test]
fn imports_are_declared_dependencies() {
    for folder in CRATES {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let declared: BTreeSet<String> =
            section(&manifest, "dependencies").map(|name| name.replace('-', "_")).collect();
        let used: BTreeSet<String> = files(&["rs"])
            .into_iter()
            .filter(|file| file.starts_with(&format!("{folder}/src/")))
            .flat_map(|file| {
                let code = without_comments_and_literals(&read(&file));
                words(&code)
                    .filter(|word| word.starts_with("shop_"))
                    .map(str::to_owned)
                    .filter(|word| is_crate(word))
                    .collect::<Vec<_>>()
            })
            .collect();
        let own = format!("shop_{}", folder.rsplit('/').next().unwrap_or(folder));
        for name in used.iter().filter(|name| **name != own) {
            assert!(declared.contains(name), "{folder} uses {name} and does not declare it");
        }
        for name in declared.iter().filter(|name| is_crate(name)) {
            assert!(
                used.contains(name) || folder == "tests",
                "{folder} declares {name} and does not use it"
            );
        }
    }
}

fn is_crate(word: &str) -> bool {
    CRATES.iter().any(|folder| word.strip_prefix("shop_") == folder.rsplit('/').next())
}
