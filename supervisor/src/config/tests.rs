//! Every error names the key, the source of its value and what is allowed.

use std::fs;

use secrecy::ExposeSecret;

use super::*;

fn read(variables: &[(&str, &str)]) -> anyhow::Result<Config> {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    Config::read(None, variables.iter().map(owned))
}

fn refusal(variables: &[(&str, &str)]) -> String {
    read(variables).expect_err("it is refused").to_string()
}

#[test]
fn config_toml_contains_the_defaults() {
    let config = read(&[]).unwrap();
    assert_eq!((config.auth.http.port, config.catalog.http.port), (8000, 8001));
    assert_eq!(config.jwt.algorithm, Algorithm::HS256);
}

#[test]
fn no_section_of_config_toml_is_empty() {
    let sections: Vec<_> = DEFAULTS.split("\n[").skip(1).collect();
    assert!(sections.iter().all(|section| section.contains("= ")), "no section is empty");
}

#[test]
fn a_variable_overrides_a_key_and_keeps_its_type() {
    let config = read(&[
        ("SHOP__RABBITMQ__PASSWORD", "12345"),
        ("SHOP__AUTH__HTTP__PORT", "9000"),
        ("SHOP__AUTH__DATABASE__ECHO", "true"),
        ("HOME", "/root"),
    ])
    .unwrap();
    assert_eq!(config.rabbitmq.password.expose_secret(), "12345");
    assert_eq!((config.auth.http.port, config.auth.database.echo), (9000, true));
}

#[test]
fn an_invalid_variable_is_reported_with_what_is_allowed() {
    assert_eq!(
        refusal(&[("SHOP__AUTH__HTTP__PROT", "9000")]),
        "environment variable SHOP__AUTH__HTTP__PROT: unknown key auth.http.prot; \
         the keys of auth.http are host, port"
    );
    assert_eq!(
        refusal(&[("SHOP__AUTH__HTTP__PORT", "many")]),
        "environment variable SHOP__AUTH__HTTP__PORT: auth.http.port must be a whole number, not \"many\""
    );
    let refusal = refusal(&[("SHOP__AUTH__HTTP__PORT", "70000")]);
    assert!(refusal.contains("SHOP__AUTH__HTTP__PORT: auth.http.port:"), "{refusal}");
    assert!(refusal.contains("70000"), "{refusal}");
}

#[test]
fn an_invalid_key_in_a_file_is_reported_with_its_line() {
    let folder = std::env::temp_dir().join(format!("shop-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let refusal = |text: &str| {
        let file = folder.join("config.toml");
        fs::write(&file, text).unwrap();
        let refusal = Config::read(Some(&file), []).expect_err("it is refused");
        format!("{refusal:#}").replace(&*file.to_string_lossy(), "config.toml")
    };
    assert_eq!(
        refusal("[auth]\n\n[auth.http]\nhost = \"::1\"\nprot = 1\n"),
        "config.toml line 5: unknown key auth.http.prot; the keys of auth.http are host, port"
    );
    assert_eq!(
        refusal("[jwt]\nalgorithm = 'none'\n"),
        "config.toml line 2: jwt.algorithm: unknown variant `none`, expected one of `HS256`, `HS384`, `HS512`"
    );
    assert!(refusal("[jwt\n").contains("line 1"));
    assert!(
        refusal("colour = 1\n")
            .starts_with("config.toml line 1: unknown key colour; the sections are actors, auth")
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_missing_short_or_placeholder_secret_is_refused() {
    let secret = |secret| {
        refusal(&[("SHOP__EMBEDDED__POSTGRES", "false"), ("SHOP__JWT__SECRET_KEY", secret)])
    };
    assert!(secret("").contains("is missing"));
    assert!(secret("too short").contains("at least 32 bytes"));
    assert!(secret("please-change-me-please-change-me-please").contains("is a placeholder"));
    let good = ("SHOP__JWT__SECRET_KEY", "0123456789abcdef0123456789abcdef");
    assert!(read(&[("SHOP__EMBEDDED__POSTGRES", "false"), good]).is_ok());
}
