//! The tracked files of the repository, and Rust source without comments and literals.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The crates' source folders.
pub const CRATES: [&str; 7] =
    ["actors/runtime", "persistence", "actors", "messaging", "http", "supervisor", "tests"];

/// The root of the repository: the parent of this package, or the working directory when rustc
/// compiled the test without Cargo.
pub fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from("."), |tests| Path::new(&tests).join(".."))
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files with one of the extensions, without build output. `git` lists them where there is a
/// repository; an unpacked archive is walked.
pub fn files(extensions: &[&str]) -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty())
        .map(|output| String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect());
    let mut files: Vec<String> = listed.unwrap_or_else(|| {
        let mut found = Vec::new();
        walk(&root(), "", &mut found);
        found
    });
    files.retain(|file| {
        let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
            && root().join(file).is_file()
    });
    files.sort();
    files
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if entry.path().is_dir() {
            if !["target", "data", ".git", ".tools"].contains(&name.as_str()) {
                walk(&entry.path(), &path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Replaces comments and the contents of string and character literals by spaces. Line breaks stay,
/// so that line numbers remain valid.
pub fn without_comments_and_literals(source: &str) -> String {
    let source: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < source.len() {
        let end = token_end(&source, at);
        if end == at + 1 {
            code.push(source[at]);
        } else {
            code.extend(source[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        }
        at = end;
    }
    code
}

/// Where the comment or literal that starts at `at` ends; `at + 1` for any other character.
fn token_end(source: &[char], at: usize) -> usize {
    let rest = &source[at..];
    let previous_is_word = at > 0 && (source[at - 1].is_alphanumeric() || source[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + find(rest, &['*', '/'], 2),
        ['r', '"' | '#', ..] if !previous_is_word => {
            raw_string_end(rest).map_or(at + 1, |n| at + n)
        }
        ['b', 'r', '"' | '#', ..] if !previous_is_word => {
            raw_string_end(&rest[1..]).map_or(at + 1, |n| at + n + 1)
        }
        ['"', ..] => at + quoted_end(rest),
        ['\'', '\\', ..] => at + 2 + find(&rest[2..], &['\''], 1),
        ['\'', _, '\'', ..] => at + 3,
        _ => at + 1,
    }
}

fn find(source: &[char], pattern: &[char], from: usize) -> usize {
    (from..source.len())
        .find(|&at| source[at..].starts_with(pattern))
        .map_or(source.len(), |at| at + pattern.len())
}

fn quoted_end(source: &[char]) -> usize {
    let mut at = 1;
    while at < source.len() && source[at] != '"' {
        at += if source[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(source.len())
}

fn raw_string_end(source: &[char]) -> Option<usize> {
    let hashes = source[1..].iter().take_while(|&&c| c == '#').count();
    if source.get(1 + hashes) != Some(&'"') {
        return None; // a raw identifier
    }
    let mut pattern = vec!['"'];
    pattern.extend(vec!['#'; hashes]);
    Some(find(source, &pattern, hashes + 2))
}

/// The words of a text: identifiers as they are written.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Fails with the list of findings, one a line. A line of `exceptions.txt` that is the start of a
/// finding permits it.
pub fn report(rule: &str, findings: &[String]) {
    let exceptions: Vec<&str> = include_str!("exceptions.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let findings: Vec<&str> = findings
        .iter()
        .map(String::as_str)
        .filter(|finding| !exceptions.iter().any(|exception| finding.starts_with(exception)))
        .collect();
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}
