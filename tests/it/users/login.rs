//! Login: what a failed one reveals.

use std::time::{Duration, Instant};

use serde_json::json;
use shop_supervisor::Node;
use shop_tests::{BrokerKind, Client, PASSWORD, Settings, TestShop, eventually};

use super::{LOGIN, login};
use crate::actors;

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_get_the_same_response() {
    let shop = TestShop::start().await;
    shop.user("anna").await;
    let known = login(&shop.anonymous(), "anna", "wrong horse").await.expect(401);
    let (long, longer) = ("x".repeat(73), "x".repeat(100_000));
    for (name, password) in [
        ("unknown", PASSWORD),
        ("", ""),
        ("anna", ""),
        ("anna", "CORRECT HORSE"),
        ("anna", &long),
        ("anna", &longer),
        ("anna", "correct horse\0"),
        ("anna ", PASSWORD),
        ("ann\0a", PASSWORD),
        ("\0", "\0"),
        ("anna@example.com", PASSWORD),
        ("' or 1=1 --", PASSWORD),
        (&longer, PASSWORD),
    ] {
        assert_eq!(login(&shop.anonymous(), name, password).await.expect(401), known);
    }
    let missing = ["password", "username"];
    for (body, fields) in [
        (json!({}), &missing[..]),
        (json!({"username": 7, "password": null}), &missing),
        (json!({"username": "anna"}), &missing[..1]),
        (json!([]), &["body"]),
    ] {
        let response = shop.anonymous().post(Node::Auth, LOGIN, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    shop.close().await;
}

/// Failing logins whose durations are compared: a user name and a password.
const FAILING_LOGINS: [(&str, &str); 4] = [
    ("admin", "wrong horse"),
    ("unknown", "wrong horse"),
    (
        "admin",
        "a password that is longer than the 72 bytes that bcrypt compares, which match no hash",
    ),
    ("no\0body", "x"),
];

/// The shortest duration of each failing login so far. A busy machine makes single logins slower; the
/// shortest of many, measured in turn, approaches the time that the login's work takes.
async fn measure_failing_logins(anonymous: &Client, shortest: &mut [Duration; 4]) {
    for (shortest, (name, password)) in shortest.iter_mut().zip(FAILING_LOGINS) {
        let since = Instant::now();
        login(anonymous, name, password).await.expect(401);
        *shortest = since.elapsed().min(*shortest);
    }
}

#[tokio::test]
async fn login_costs_one_password_hash_whether_the_user_exists_or_not() {
    let mut settings = Settings::single_replica(BrokerKind::Bus).await;
    settings.set("SHOP__AUTH__BCRYPT_COST", "10");
    let shop = TestShop::start_with(settings).await;
    let (anonymous, admin) = (shop.anonymous(), shop.admin().await);
    let verifications = async || {
        let passwords = actors::find(&admin, Node::Auth, "shop/auth/passwords").await;
        passwords.messages["Verify"]
    };
    let mut expected = verifications().await;
    let mut shortest = [Duration::MAX; 4];
    for _ in 0..4 {
        measure_failing_logins(&anonymous, &mut shortest).await;
        expected += FAILING_LOGINS.len() as i64;
        assert_eq!(verifications().await, expected, "every login is one job of the pool");
    }
    // A hash of another cost takes half the time, or twice.
    eventually(async || {
        measure_failing_logins(&anonymous, &mut shortest).await;
        let [known, others @ ..] = shortest;
        let alike = |other: &Duration| (known * 2 / 3..known * 3 / 2).contains(other);
        if others.iter().all(alike) { Ok(()) } else { Err(format!("{shortest:?}")) }
    })
    .await;
    shop.close().await;
}
