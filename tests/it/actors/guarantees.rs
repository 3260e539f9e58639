//! Every guarantee in docs/runtime-semantics.md names a test that proves it.

/// The tests that a guarantee names, such as `actors::control::a_test`.
fn named_tests(bullet: &str) -> Vec<(&str, &str)> {
    let names = bullet.split('`').skip(1).step_by(2);
    names.filter_map(|name| name.rsplit_once("::")).collect()
}

#[test]
fn every_documented_guarantee_names_an_existing_test() {
    let page = include_str!("../../../docs/runtime-semantics.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: String| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let bullets = page.split("\n- ").skip(1).map(|bullet| bullet.split("\n##").next().unwrap());
    for bullet in bullets.filter(|bullet| !bullet.starts_with("*Not* guaranteed")) {
        let tests = named_tests(bullet);
        assert!(!tests.is_empty(), "no test is named: {bullet}");
        for (module, test) in tests {
            let folders = [
                "tests/it",
                "actors/runtime/src",
                "actors/src",
                "supervisor/src",
                "http/src",
                "messaging/src",
            ];
            let paths = folders.iter().flat_map(|folder| {
                let module = module.replace("::", "/");
                [format!("{folder}/{module}.rs"), format!("{folder}/{module}/tests.rs")]
            });
            let sources: Vec<_> = paths.map(read).collect();
            let exists = |source: &String| {
                source.contains(&format!("fn {test}(")) || source.contains(&format!("    {test}\n"))
            };
            assert!(sources.iter().any(exists), "the test {module}::{test} does not exist");
        }
    }
}
