//! The language: phrases of `language.txt` appear in no tracked text.

use crate::source::{files, read, report};

/// Texts that cannot change or that list the phrases: applied migrations have checksums.
const EXEMPT: [&str; 4] =
    ["tests/house/", "persistence/migrations/", "tests/upgrade/", "CHANGELOG.md"];

fn phrases() -> Vec<(&'static str, &'static str)> {
    include_str!("language.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(" | ").expect("phrase | term"))
        .collect()
}

/// Words in lower case with one space between them, camel case and snake case split. A word in quotes
/// such as the Unix user `"nobody"` is a value and not language: it is left out.
fn normalise(line: &str) -> String {
    let mut words = String::from(" ");
    let mut previous = ' ';
    let characters: Vec<char> = line.chars().collect();
    for (at, &character) in characters.iter().enumerate() {
        let next_is_lower = characters.get(at + 1).is_some_and(|next| next.is_lowercase());
        let new_word = character.is_uppercase()
            && (previous.is_lowercase() || (previous.is_uppercase() && next_is_lower));
        if (new_word || !character.is_alphanumeric()) && !words.ends_with(' ') {
            words.push(' ');
        }
        if character.is_alphanumeric() {
            words.extend(character.to_lowercase());
        }
        previous = character;
    }
    words.push(' ');
    words.replace("  ", " ")
}

#[test]
fn texts_use_the_standard_terms() {
    let phrases = phrases();
    let mut findings = Vec::new();
    for file in files(&["rs", "md", "toml", "sql", "js", "html", "css", "sh", "yml", "yaml"]) {
        if EXEMPT.iter().any(|exempt| file.starts_with(exempt)) {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            let line = line.replace("\"nobody\"", "").replace("`nobody`", "");
            let words = normalise(&line);
            for (phrase, term) in &phrases {
                if words.contains(&format!(" {phrase} ")) {
                    findings.push(format!("\"{phrase}\": {file}:{} (say: {term})", number + 1));
                }
            }
        }
    }
    report("words outside the project's language", &findings);
}

#[test]
fn identifiers_are_compared_word_by_word() {
    assert_eq!(normalise("const MOST_TRIES: u32"), " const most tries u32 ");
    assert_eq!(normalise("HttpServer::newKeeper()"), " http server new keeper ");
}
