//! Documentation: commands, paths, links and configuration keys that it names exist, and prose wraps.

use std::collections::BTreeSet;
use std::path::Path;

use crate::source::{files, read, report, root};

const MAX_COLUMNS: usize = 100;

/// The documentation pages and their text.
fn pages() -> Vec<(String, String)> {
    files(&["md"]).into_iter().map(|file| (file.clone(), read(&file))).collect()
}

/// Inline code and the lines of code blocks.
fn code(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, block) in page.split("```").enumerate() {
        if index % 2 == 1 {
            found.extend(block.lines().skip(1).map(str::to_owned));
        } else {
            found.extend(block.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The word after each occurrence of a command at the start of a line or after a separator.
fn arguments<'a>(code: &'a str, command: &str) -> Vec<&'a str> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let starts = |at: usize| at == 0 || ["&&", "|", ";", "exec"].contains(&words[at - 1]);
    (0..words.len())
        .filter(|&at| words[at] == command && starts(at))
        .filter_map(|at| words.get(at + 1).copied())
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

#[test]
fn make_targets_in_the_documentation_exist() {
    let makefile = read("Makefile");
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for code in code(&page) {
            for target in arguments(&code, "make") {
                if !makefile.contains(&format!("\n{target}:")) {
                    findings.push(format!("{file}: make {target}"));
                }
            }
        }
    }
    report("unknown make targets", &findings);
}

#[test]
fn shop_commands_in_the_documentation_exist() {
    let sources: String = files(&["rs"])
        .into_iter()
        .filter(|file| file.starts_with("supervisor/src/"))
        .map(|file| read(&file))
        .collect();
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for code in code(&page) {
            for command in ["shop", "target/release/shop"] {
                for name in arguments(&code, command) {
                    let variant: String = name.split('-').map(capitalised).collect();
                    let declared = [" {", ",", "("]
                        .iter()
                        .any(|end| sources.contains(&format!("\n    {variant}{end}")));
                    if !declared {
                        findings.push(format!("{file}: {command} {name}"));
                    }
                }
            }
        }
    }
    report("unknown commands", &findings);
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or(String::new(), |c| c.to_uppercase().chain(characters).collect())
}

#[test]
fn paths_and_links_in_the_documentation_exist() {
    let folders = [
        "actors/",
        "persistence/",
        "messaging/",
        "http/",
        "supervisor/",
        "tests/",
        "scripts/",
        "docs/",
        ".github/",
        ".config/",
    ];
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for code in code(&page) {
            let path = code.trim_matches(|c: char| c.is_whitespace());
            let is_path = folders.iter().any(|folder| path.starts_with(folder))
                && !path.contains([' ', '*', '{', '<', '…', '$']);
            if is_path && !root().join(path.split(':').next().unwrap_or(path)).exists() {
                findings.push(format!("{file}: {path}"));
            }
        }
        let folder = root().join(Path::new(&file).parent().expect("a folder"));
        for link in page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains(':') && !folder.join(link).exists() {
                findings.push(format!("{file}: link to {link}"));
            }
        }
    }
    report("paths that do not exist", &findings);
}

/// The keys of config.toml as `section.key`, commented-out ones included.
fn keys() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in read("config.toml").lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn configuration_keys_in_the_documentation_exist() {
    let keys = keys();
    let sections: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    let mut findings = Vec::new();
    for (file, page) in pages().into_iter().filter(|(file, _)| file != "CHANGELOG.md") {
        for code in code(&page) {
            let key = code.split([' ', '=']).next().unwrap_or_default();
            let variable = code.split_whitespace().find_map(|word| word.strip_prefix("SHOP__"));
            let named = variable.and_then(|word| word.split('=').next()).map_or_else(
                || key.to_owned(),
                |word| word.trim_matches('`').to_lowercase().replace("__", "."),
            );
            let is_key = named.split_once('.').is_some_and(|(section, rest)| {
                sections.contains(section)
                    && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
                    && !["toml", "rs", "md", "created", "updated", "moved"].contains(&rest)
            });
            let is_section = keys.iter().any(|key| key.starts_with(&format!("{named}.")));
            if is_key && !is_section && !keys.contains(&named) && !is_queue(&named) {
                findings.push(format!("{file}: {named}"));
            }
        }
    }
    report("unknown configuration keys", &findings);
}

/// `catalog.users` and `order.products` are queues, `order.users.dead` a dead-letter queue.
fn is_queue(name: &str) -> bool {
    let topology: String = files(&["rs"])
        .into_iter()
        .filter(|file| file.starts_with("messaging/src/") || file.starts_with("persistence/src/"))
        .map(|file| read(&file))
        .collect();
    topology.contains(&format!("\"{}\"", name.trim_end_matches(".dead")))
}

#[test]
fn prose_wraps_at_100_columns() {
    let mut findings = Vec::new();
    for (file, page) in pages() {
        let mut in_code = false;
        for (number, line) in page.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            let table = line.trim_start().starts_with('|');
            if !in_code && !table && line.chars().count() > MAX_COLUMNS {
                findings.push(format!("{file}:{} wide line", number + 1));
            }
        }
    }
    report("prose wider than 100 columns", &findings);
}
