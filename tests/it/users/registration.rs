//! Registration: who can register, with which names, addresses and passwords.

use futures::future::join_all;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::api::{Login, User};
use shop_tests::{PASSWORD, Response, TestShop};
use sqlx::Row;

use super::{ME, REGISTER, USERS, address, login, register};

#[tokio::test]
async fn a_new_account_has_the_user_role_and_can_log_in() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    let email = address();
    let user: User = register(&anonymous, "Анна", email.as_str()).await.read(201);
    let (username, role) = ("Анна".to_owned(), "USER".to_owned());
    assert_eq!(user, User { id: user.id, username, email, role });

    let session: Login = login(&anonymous, "Анна", PASSWORD).await.read(200);
    assert_eq!((session.token_type.as_str(), session.expires_in), ("bearer", 1800));
    let anna = anonymous.with_token(&session.access_token);
    assert_eq!(anna.get(Node::Auth, ME).await.read::<User>(200), user);

    let claims = anna.claims();
    assert_eq!(
        [&claims["sub"], &claims["username"], &claims["role"]],
        [&json!(user.id), &json!("Анна"), &json!("USER")]
    );
    let seconds =
        |claim: &str| claims[claim].as_i64().unwrap_or_else(|| panic!("{claim}: {claims}"));
    assert_eq!(seconds("exp") - seconds("iat"), 1800);
    assert!(claims["jti"].is_string(), "{claims}");
    shop.close().await;
}

#[tokio::test]
async fn a_user_cannot_give_itself_the_admin_role() {
    let shop = TestShop::start().await;
    let new =
        json!({"username": "mallory", "email": address(), "password": PASSWORD, "role": "ADMIN"});
    let response = shop.anonymous().post(Node::Auth, REGISTER, new).await;
    if response.status == 201 {
        assert_eq!(response.json()["role"], "USER");
        let mallory = shop.anonymous().log_in("mallory").await;
        mallory.put(Node::Auth, ME, json!({"role": "ADMIN"})).await;
        assert_eq!(mallory.get(Node::Auth, ME).await.expect(200)["role"], "USER");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_username_has_3_to_64_characters_without_spaces() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    let longest = "ы".repeat(64);
    for good in ["abc", "Анна-Мария", "🦊🦊🦊", "o'Neil;--", "%_\\", longest.as_str()]
    {
        let user: User = register(&anonymous, good, address()).await.read(201);
        assert_eq!(user.username, good);
        login(&anonymous, good, PASSWORD).await.expect(200);
    }
    let too_long = "ы".repeat(65);
    let texts = [
        "",
        "ab",
        "ыы",
        "🦊🦊",
        too_long.as_str(),
        "a b",
        " abc",
        "abc ",
        "a\u{a0}bc",
        "a\tbc",
        "abc\n",
    ];
    let texts =
        texts.into_iter().chain(["abc\0", "\0abc", "ab\u{7f}c", "ab\u{85}c", "a\u{3000}bc"]);
    for bad in
        texts.map(Value::from).chain([json!(null), json!(12345), json!(true), json!(["abc"])])
    {
        let response = register(&anonymous, bad, address()).await;
        assert_eq!(response.invalid_fields(), ["username"], "{}", response.request);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_email_is_a_valid_address_of_at_most_254_characters() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    let of_length = |length: usize| {
        let (local, label) = ("a".repeat(64), "d".repeat(63));
        let rest = "d".repeat(length - 64 - 1 - 2 * 64 - 4);
        format!("{local}@{label}.{label}.{rest}.com")
    };
    let (longest, too_long) = (of_length(254), of_length(255));
    assert_eq!((longest.len(), too_long.len()), (254, 255));
    for (number, good) in
        ["a@example.com", "anna.b+shop@mail.example.org", "анна@пример.рф", longest.as_str()]
            .iter()
            .enumerate()
    {
        let user: User = register(&anonymous, format!("good{number}"), *good).await.read(201);
        assert_eq!(user.email, *good);
    }
    let texts = [
        "",
        "a",
        "a@",
        "@b.com",
        "a b@c.com",
        "a@@b.com",
        "a@b.com\n",
        "a\0@b.com",
        " a@b.com",
        "a@b..com",
    ];
    let texts = texts.into_iter().chain([
        too_long.as_str(),
        "Anna <a@b.com>",
        "a@b.com,c@d.com",
        "a@-b.com",
    ]);
    for (number, bad) in
        texts.map(Value::from).chain([json!(null), json!(1), json!({})]).enumerate()
    {
        let response = register(&anonymous, format!("bad{number}"), bad).await;
        assert_eq!(response.invalid_fields(), ["email"], "{}", response.request);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_password_has_8_characters_to_72_bytes_and_is_never_truncated() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    let attempt = async |name: String, password: Value| {
        let new = json!({"username": name, "email": address(), "password": password});
        anonymous.post(Node::Auth, REGISTER, new).await
    };
    let longest = ["x".repeat(72), "ы".repeat(36), "🦊".repeat(18)];
    let good = ["12345678", "пароль12", "        ", "🦊🦊🦊🦊🦊🦊🦊🦊"].map(str::to_owned);
    for (number, good) in good.iter().chain(&longest).enumerate() {
        let name = format!("good{number}");
        attempt(name.clone(), json!(good)).await.expect(201);
        login(&anonymous, &name, good).await.expect(200);
        login(&anonymous, &name, &format!("{good}x")).await.expect(401);
        login(
            &anonymous,
            &name,
            &good[..good.len() - good.chars().last().map_or(0, char::len_utf8)],
        )
        .await
        .expect(401);
    }
    let too_long = longest.map(|longest| longest + "x");
    let bad = ["", "1234567", "ыыыыыыы", "12345678\0"].map(str::to_owned);
    let bad = bad.into_iter().chain(too_long).map(Value::from);
    for (number, bad) in bad.chain([json!(null), json!(12345678), json!([])]).enumerate() {
        let response = attempt(format!("bad{number}"), bad).await;
        assert_eq!(response.invalid_fields(), ["password"], "{}", response.request);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_registration_reports_all_invalid_fields_together() {
    let shop = TestShop::start().await;
    let all = ["email", "password", "username"];
    for (body, fields) in [
        (json!({}), &all[..]),
        (json!({"username": "a b", "email": "nowhere", "password": "short"}), &all),
        (json!({"username": null, "email": 7, "password": []}), &all),
        (json!({"username": "anna", "email": "nowhere"}), &all[..2]),
        (json!([]), &["body"]),
        (json!("anna"), &["body"]),
        (json!(7), &["body"]),
        (json!(null), &["body"]),
    ] {
        let response = shop.anonymous().post(Node::Auth, REGISTER, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    shop.close().await;
}

#[tokio::test]
async fn usernames_and_emails_are_unique_ignoring_case() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    for (number, (name, same)) in [
        ("bob", "BoB"),
        ("Анна-Мария", "АННА-мария"),
        ("straße", "STRASSE"),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύσ"),
    ]
    .iter()
    .enumerate()
    {
        let email = format!("Почта{number}@Example.com");
        register(&anonymous, *name, email.as_str()).await.expect(201);
        let response = register(&anonymous, *same, address()).await;
        let detail = response.problem(409).detail;
        assert!(detail.contains("username"), "{detail}");
        let response = register(&anonymous, format!("other{number}"), email.to_uppercase()).await;
        let detail = response.problem(409).detail;
        assert!(detail.contains("email"), "{detail}");
        login(&anonymous, same, PASSWORD).await.expect(200);
    }
    shop.close().await;
}

#[tokio::test]
async fn concurrent_registrations_of_one_name_create_one_user() {
    let shop = TestShop::start().await;
    let anonymous = shop.anonymous();
    let names = ["Единственная", "единственная", "ЕДИНСТВЕННАЯ"].iter().cycle().take(24);
    let same_name = names.map(|name| register(&anonymous, *name, address()));
    assert_one_created(&join_all(same_name).await);

    let email = address();
    let names = (0..24).map(|number| format!("user{number}"));
    let same_email = names.map(|name| register(&anonymous, name, email.as_str()));
    assert_one_created(&join_all(same_email).await);

    let users: Vec<User> = shop.admin().await.get(Node::Auth, USERS).await.read(200);
    assert_eq!(users.len(), 3, "{users:?}");
    shop.close().await;
}

/// Checks that one request succeeded and the others got 409.
fn assert_one_created(responses: &[Response]) {
    let created = |response: &&Response| response.status == 201;
    let (created, refused): (Vec<_>, Vec<_>) = responses.iter().partition(created);
    assert_eq!(created.len(), 1, "{responses:?}");
    for response in refused {
        response.expect(409);
    }
}

#[tokio::test]
async fn passwords_are_stored_as_bcrypt_hashes() {
    let shop = TestShop::start().await;
    shop.user("anna").await;
    let mut database = shop.settings.database(Node::Auth).await;
    let rows = sqlx::query("select to_jsonb(users)::text as row, password_hash from users");
    for row in rows.fetch_all(&mut database).await.expect("the users") {
        let (all, hash): (String, String) = (row.get("row"), row.get("password_hash"));
        assert!(hash.starts_with("$2b$04$"), "{hash}");
        assert!(!all.contains(PASSWORD), "{all}");
    }
    shop.close().await;
}
