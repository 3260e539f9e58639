//! Sizes of files and functions.

use crate::source::{files, read, report, without_comments_and_literals};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;

#[test]
fn files_have_at_most_500_lines() {
    let findings: Vec<String> = files(&["rs", "js", "css", "html"])
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_FILE_LINES)
        .map(|(lines, file)| format!("{file}: {lines} lines"))
        .collect();
    report("files that are too long", &findings);
}

/// The functions of a source file: name, first line, number of lines.
fn functions(source: &str) -> Vec<(String, usize, usize)> {
    let code = without_comments_and_literals(source);
    let mut functions = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let rest = &code[start + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(body) = rest.find(['{', ';']) else { continue };
        if name.is_empty() || rest[body..].starts_with(';') {
            continue;
        }
        let mut depth = 0_usize;
        let end = rest[body..].char_indices().find_map(|(at, character)| {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(body + at)
        });
        let lines = rest[..end.unwrap_or(rest.len())].matches('\n').count() + 1;
        functions.push((name, code[..start].matches('\n').count() + 1, lines));
    }
    functions
}

#[test]
fn functions_have_at_most_60_lines() {
    let sources = files(&["rs"]).into_iter().filter(|file| file.contains("/src/"));
    let findings: Vec<String> = sources
        .filter(|file| !file.ends_with("/tests.rs"))
        .flat_map(|file| {
            let long = functions(&read(&file)).into_iter().filter(|f| f.2 > MAX_FUNCTION_LINES);
            long.map(|(name, line, lines)| format!("{file}:{line} {name}: {lines} lines"))
                .collect::<Vec<_>>()
        })
        .collect();
    report("functions that are too long", &findings);
}

#[test]
fn literals_and_comments_do_not_count_as_code() {
    let source = "fn a() { let x = \"}{\"; // }\n let c = '}'; let r = r#\"}\"#; }\nfn b();\n";
    assert_eq!(functions(source), [("a".to_owned(), 1, 2)]);
}
