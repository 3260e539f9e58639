//! Users: signing up and in, whose token is good where, and what an administrator does with users.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use sqlx::Row;
use uuid::Uuid;

use crate::actors;
use crate::shop::same;
use crate::shop::{Answer, Client, Over, PASSWORD, SECRET, Settings, TestShop, eventually, forge};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const VERIFY: &str = "/api/v1/auth/verify";
const ME: &str = "/api/v1/users/me";
const USERS: &str = "/api/v1/users";

/// What nobody else has.
fn address() -> String {
    format!("{}@example.com", Uuid::new_v4().simple())
}

async fn register(nobody: &Client, username: impl Into<Value>, email: impl Into<Value>) -> Answer {
    let new = json!({"username": username.into(), "email": email.into(), "password": PASSWORD});
    nobody.post(Node::Auth, REGISTER, new).await
}

async fn login(nobody: &Client, username: &str, password: &str) -> Answer {
    let login = json!({"username": username, "password": password});
    nobody.post(Node::Auth, LOGIN, login).await
}

async fn set_role(admin: &Client, user: &Client, role: &str) -> Answer {
    let path = format!("{USERS}/{}/role", user.id());
    admin.put(Node::Auth, &path, json!({"role": role})).await
}

#[tokio::test]
async fn whoever_signs_up_is_a_user_and_can_sign_in() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
    let email = address();
    let user = register(&nobody, "Анна", email.as_str()).await.expect(201);
    let id = user["id"].as_str().expect("an id");
    assert!(id.parse::<Uuid>().is_ok(), "{id}");
    assert_eq!(user, json!({"id": id, "username": "Анна", "email": email, "role": "USER"}));

    let signed_in = login(&nobody, "Анна", PASSWORD).await.expect(200);
    assert_eq!(
        (&signed_in["token_type"], &signed_in["expires_in"]),
        (&json!("bearer"), &json!(1800))
    );
    let anna = nobody.with_token(signed_in["access_token"].as_str().expect("a token"));
    assert_eq!(anna.get(Node::Auth, ME).await.expect(200), user);

    let claims = anna.claims();
    assert_eq!(
        [&claims["sub"], &claims["username"], &claims["role"]],
        [&json!(id), &json!("Анна"), &json!("USER")]
    );
    let seconds =
        |claim: &str| claims[claim].as_i64().unwrap_or_else(|| panic!("{claim}: {claims}"));
    assert_eq!(seconds("exp") - seconds("iat"), 1800);
    assert!(claims["jti"].is_string(), "{claims}");
    shop.close().await;
}

#[tokio::test]
async fn nobody_makes_itself_an_administrator() {
    let shop = TestShop::start().await;
    let new =
        json!({"username": "mallory", "email": address(), "password": PASSWORD, "role": "ADMIN"});
    let answer = shop.nobody().post(Node::Auth, REGISTER, new).await;
    if answer.status == 201 {
        assert_eq!(answer.json()["role"], "USER");
        let mallory = shop.nobody().sign_in("mallory").await;
        mallory.put(Node::Auth, ME, json!({"role": "ADMIN"})).await;
        assert_eq!(mallory.get(Node::Auth, ME).await.expect(200)["role"], "USER");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_name_has_3_to_64_characters_without_spaces() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
    let longest = "ы".repeat(64);
    for good in ["abc", "Анна-Мария", "🦊🦊🦊", "o'Neil;--", "%_\\", longest.as_str()]
    {
        let user = register(&nobody, good, address()).await.expect(201);
        assert_eq!(user["username"], good);
        login(&nobody, good, PASSWORD).await.expect(200);
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
        let answer = register(&nobody, bad, address()).await;
        assert_eq!(answer.broken_fields(), ["username"], "{}", answer.call);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_email_is_a_valid_address_of_at_most_254_characters() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
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
        let user = register(&nobody, format!("good{number}"), *good).await.expect(201);
        assert_eq!(user["email"], *good);
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
        let answer = register(&nobody, format!("bad{number}"), bad).await;
        assert_eq!(answer.broken_fields(), ["email"], "{}", answer.call);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_password_has_8_characters_to_72_bytes_and_is_never_cut() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
    let attempt = async |name: String, password: Value| {
        let new = json!({"username": name, "email": address(), "password": password});
        nobody.post(Node::Auth, REGISTER, new).await
    };
    let longest = ["x".repeat(72), "ы".repeat(36), "🦊".repeat(18)];
    let good = ["12345678", "пароль12", "        ", "🦊🦊🦊🦊🦊🦊🦊🦊"].map(str::to_owned);
    for (number, good) in good.iter().chain(&longest).enumerate() {
        let name = format!("good{number}");
        attempt(name.clone(), json!(good)).await.expect(201);
        login(&nobody, &name, good).await.expect(200);
        login(&nobody, &name, &format!("{good}x")).await.expect(401);
        login(&nobody, &name, &good[..good.len() - good.chars().last().map_or(0, char::len_utf8)])
            .await
            .expect(401);
    }
    let too_long = longest.map(|longest| longest + "x");
    let bad = ["", "1234567", "ыыыыыыы", "12345678\0"].map(str::to_owned);
    let bad = bad.into_iter().chain(too_long).map(Value::from);
    for (number, bad) in bad.chain([json!(null), json!(12345678), json!([])]).enumerate() {
        let answer = attempt(format!("bad{number}"), bad).await;
        assert_eq!(answer.broken_fields(), ["password"], "{}", answer.call);
    }
    shop.close().await;
}

#[tokio::test]
async fn every_rule_that_a_registration_breaks_is_named_at_once() {
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
        let answer = shop.nobody().post(Node::Auth, REGISTER, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    shop.close().await;
}

#[tokio::test]
async fn names_and_addresses_are_unique_whatever_their_case() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
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
        register(&nobody, *name, email.as_str()).await.expect(201);
        let answer = register(&nobody, *same, address()).await;
        let detail = answer.expect(409)["detail"].to_string();
        assert!(detail.contains("username"), "{detail}");
        let answer = register(&nobody, format!("other{number}"), email.to_uppercase()).await;
        let detail = answer.expect(409)["detail"].to_string();
        assert!(detail.contains("email"), "{detail}");
        login(&nobody, same, PASSWORD).await.expect(200);
    }
    shop.close().await;
}

#[tokio::test]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let shop = TestShop::start().await;
    let nobody = shop.nobody();
    let names = ["Единственная", "единственная", "ЕДИНСТВЕННАЯ"].iter().cycle().take(24);
    let answers = join_all(names.map(|name| register(&nobody, *name, address()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1, "{answers:?}");
    refused.iter().for_each(|answer| drop(answer.expect(409)));

    let one = address();
    let names = (0..24).map(|number| format!("user{number}"));
    let answers = join_all(names.map(|name| register(&nobody, name, one.as_str()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1, "{answers:?}");
    refused.iter().for_each(|answer| drop(answer.expect(409)));

    let users = shop.admin().await.get(Node::Auth, USERS).await.expect(200);
    assert_eq!(users.as_array().map(Vec::len), Some(3), "{users}");
    shop.close().await;
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_password_are_answered_alike() {
    let shop = TestShop::start().await;
    shop.user("anna").await;
    let known = login(&shop.nobody(), "anna", "wrong horse").await.expect(401);
    let (long, longer) = ("x".repeat(73), "x".repeat(100_000));
    for (name, password) in [
        ("nobody", PASSWORD),
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
        assert_eq!(login(&shop.nobody(), name, password).await.expect(401), known);
    }
    let missing = ["password", "username"];
    for (body, fields) in [
        (json!({}), &missing[..]),
        (json!({"username": 7, "password": null}), &missing),
        (json!({"username": "anna"}), &missing[..1]),
        (json!([]), &["body"]),
    ] {
        let answer = shop.nobody().post(Node::Auth, LOGIN, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    shop.close().await;
}

/// Failing logins whose durations are compared: a user name and a password.
const FAILING_LOGINS: [(&str, &str); 4] = [
    ("admin", "wrong horse"),
    ("nobody", "wrong horse"),
    (
        "admin",
        "a password that is longer than the 72 bytes that bcrypt compares, which match no hash",
    ),
    ("no\0body", "x"),
];

/// The shortest duration of each failing login so far. A busy machine makes single logins slower; the
/// shortest of many, measured in turn, approaches the time that the login's work takes.
async fn measure_failing_logins(nobody: &Client, shortest: &mut [Duration; 4]) {
    for (shortest, (name, password)) in shortest.iter_mut().zip(FAILING_LOGINS) {
        let since = Instant::now();
        login(nobody, name, password).await.expect(401);
        *shortest = since.elapsed().min(*shortest);
    }
}

#[tokio::test]
async fn login_costs_one_password_hash_whether_the_user_exists_or_not() {
    let mut settings = Settings::alone(Over::Bus).await;
    settings.set("SHOP__AUTH__BCRYPT_COST", "10");
    let shop = TestShop::with(settings).await;
    let (nobody, admin) = (shop.nobody(), shop.admin().await);
    let verifications = async || {
        let passwords = actors::find(&admin, Node::Auth, "shop/auth/passwords").await;
        passwords["messages"]["Verify"].as_u64().expect("the administrator's login is counted")
    };
    let before = verifications().await;
    let mut expected = before;
    let mut shortest = [Duration::MAX; 4];
    for _ in 0..4 {
        measure_failing_logins(&nobody, &mut shortest).await;
        expected += FAILING_LOGINS.len() as u64;
        assert_eq!(verifications().await, expected, "every login is one job of the pool");
    }
    // A hash of another cost takes half the time, or twice.
    eventually(async || {
        measure_failing_logins(&nobody, &mut shortest).await;
        let [known, others @ ..] = shortest;
        let alike = |other: &Duration| (known * 2 / 3..known * 3 / 2).contains(other);
        if others.iter().all(alike) { Ok(()) } else { Err(format!("{shortest:?}")) }
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn users_are_for_administrators() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("Анна").await;
    let (one, stranger) = (format!("{USERS}/{}", anna.id()), format!("{USERS}/{}", Uuid::new_v4()));
    let role = |user: &str| format!("{user}/role");
    let to_user = Some(json!({"role": "USER"}));
    let calls = [
        (Method::GET, ME.to_owned(), None, [401, 200, 200]),
        (Method::PUT, ME.to_owned(), Some(json!({})), [401, 200, 200]),
        (Method::PUT, ME.to_owned(), Some(json!([])), [401, 422, 422]),
        (Method::GET, USERS.to_owned(), None, [401, 403, 200]),
        (Method::GET, format!("{USERS}/"), None, [401, 403, 200]),
        (Method::GET, one.clone(), None, [401, 403, 200]),
        (Method::GET, stranger.clone(), None, [401, 403, 404]),
        (Method::PUT, role(&one), to_user.clone(), [401, 403, 200]),
        (Method::PUT, role(&one), Some(json!([])), [401, 403, 422]),
        (Method::PUT, role(&stranger), to_user, [401, 403, 404]),
        (Method::DELETE, stranger, None, [401, 403, 404]),
        (Method::DELETE, one, None, [401, 403, 200]),
    ];
    let nobody = shop.nobody();
    for (method, path, body, statuses) in calls {
        for (caller, status) in [&nobody, &anna, &admin].into_iter().zip(statuses) {
            caller.send(method.clone(), Node::Auth, &path, body.clone()).await.expect(status);
        }
    }
    for id in ["x", "0", "%00", "%FF", "00000000-0000-0000-0000-00000000000g"] {
        let path = format!("{USERS}/{id}");
        admin.get(Node::Auth, &path).await.expect(400);
        admin.delete(Node::Auth, &path).await.expect(400);
        admin.put(Node::Auth, &role(&path), json!({"role": "USER"})).await.expect(400);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_administrator_sees_all_users_and_no_password() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut users = vec![admin.user.clone()];
    for name in ["Яна", "Анна", "Вера"] {
        users.push(shop.user(name).await.user);
    }
    let listed = admin.get(Node::Auth, "/api/v1/users/").await;
    assert_eq!(listed.expect(200), json!(users));
    for user in &users {
        let path = format!("{USERS}/{}", user["id"].as_str().expect("an id"));
        assert_eq!(&admin.get(Node::Auth, &path).await.expect(200), user);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_user_changes_its_name_and_address() {
    let shop = TestShop::start().await;
    let (anna, vera) = (shop.user("Анна").await, shop.user("Вера").await);
    let email = address();
    let mut known = anna.user.clone();
    for (changes, name, address) in [
        (json!({}), None, None),
        (json!({"username": null, "email": null}), None, None),
        (json!({"username": "АННА"}), Some("АННА"), None),
        (json!({"username": "АННА"}), Some("АННА"), None),
        (json!({"email": email}), None, Some(&email)),
        (
            json!({"username": "Нюра", "email": email.to_uppercase()}),
            Some("Нюра"),
            Some(&email.to_uppercase()),
        ),
    ] {
        let changed = anna.put(Node::Auth, ME, changes).await.expect(200);
        name.inspect(|name| known["username"] = json!(name));
        address.inspect(|address| known["email"] = json!(address));
        assert_eq!(changed, known);
        assert_eq!(anna.get(Node::Auth, ME).await.expect(200), known);
    }
    login(&shop.nobody(), "анна", PASSWORD).await.expect(401);
    login(&shop.nobody(), "нюра", PASSWORD).await.expect(200);

    let taken = vera.user["email"].as_str().expect("an address").to_uppercase();
    for taken in [
        json!({"username": "вера"}),
        json!({"email": taken}),
        json!({"username": "Люба", "email": taken}),
    ] {
        anna.put(Node::Auth, ME, taken).await.expect(409);
    }
    for (broken, fields) in [
        (json!({"username": "x"}), &["username"][..]),
        (json!({"email": "x"}), &["email"]),
        (json!({"username": "a b", "email": 7}), &["email", "username"]),
        (json!({"username": "Люба", "email": "x"}), &["email"]),
        (json!("Люба"), &["body"]),
    ] {
        let answer = anna.put(Node::Auth, ME, broken).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    assert_eq!(
        anna.get(Node::Auth, ME).await.expect(200),
        known,
        "what is refused changes nothing"
    );
    shop.close().await;
}

#[tokio::test]
async fn a_role_is_user_or_admin() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let path = format!("{USERS}/{}/role", anna.id());
    for role in [json!("admin"), json!("ROOT"), json!(""), json!(1), json!(null), json!(["ADMIN"])]
    {
        let answer = admin.put(Node::Auth, &path, json!({"role": role})).await;
        assert_eq!(answer.broken_fields(), ["role"], "{}", answer.call);
    }
    assert_eq!(admin.put(Node::Auth, &path, json!({})).await.broken_fields(), ["role"]);
    let mut promoted = anna.user.clone();
    promoted["role"] = json!("ADMIN");
    assert_eq!(set_role(&admin, &anna, "ADMIN").await.expect(200), promoted);
    assert_eq!(anna.get(Node::Auth, USERS).await.expect(200)[1], promoted, "at once");
    shop.close().await;
}

#[tokio::test]
async fn the_last_administrator_stays_one() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let path = format!("{USERS}/{}", admin.id());
    shop.user("anna").await;
    set_role(&admin, &admin, "USER").await.expect(409);
    admin.delete(Node::Auth, &path).await.expect(409);
    set_role(&admin, &admin, "ADMIN").await.expect(200);

    let vera = shop.user("vera").await;
    set_role(&admin, &vera, "ADMIN").await.expect(200);
    admin.delete(Node::Auth, &path).await.expect(200);
    vera.delete(Node::Auth, &format!("{USERS}/{}", vera.id())).await.expect(409);
    set_role(&vera, &vera, "USER").await.expect(409);
    shop.close().await;
}

#[tokio::test]
async fn administrators_who_remove_each_other_at_once_leave_one() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut admins = vec![admin.clone()];
    for number in 0..5 {
        let other = shop.user(&format!("admin{number}")).await;
        set_role(&admin, &other, "ADMIN").await.expect(200);
        admins.push(other);
    }
    let removals = admins.iter().enumerate().flat_map(|(number, remover)| {
        admins.iter().map(move |other| async move {
            match number % 2 {
                0 => set_role(remover, other, "USER").await,
                _ => remover.delete(Node::Auth, &format!("{USERS}/{}", other.id())).await,
            }
        })
    });
    for answer in join_all(removals).await {
        assert!([200, 401, 403, 404, 409].contains(&answer.status.as_u16()), "{answer:?}");
    }
    let mut database = shop.settings.database(Node::Auth).await;
    let left = "select count(*) from users where role = 'ADMIN'";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.expect("a count");
    assert_eq!(left, 1);
    shop.close().await;
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_the_name_is_free() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let path = format!("{USERS}/{}", anna.id());
    let message = admin.delete(Node::Auth, &path).await.expect(200);
    assert!(message["message"].is_string(), "{message}");

    anna.get(Node::Auth, ME).await.expect(401);
    anna.put(Node::Auth, ME, json!({})).await.expect(401);
    login(&shop.nobody(), "Анна", PASSWORD).await.expect(401);
    admin.get(Node::Auth, &path).await.expect(404);
    admin.delete(Node::Auth, &path).await.expect(404);
    set_role(&admin, &anna, "ADMIN").await.expect(404);

    let another = register(&shop.nobody(), "Анна", anna.user["email"].clone()).await.expect(201);
    assert_ne!(another["id"], anna.user["id"]);
    anna.get(Node::Auth, ME).await.expect(401);
    shop.close().await;
}

#[tokio::test]
async fn verify_says_whose_a_token_is_and_what_its_user_may_do_now() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let verify =
        async |token: Value| shop.nobody().post(Node::Auth, VERIFY, json!({"token": token})).await;
    let of_anna = json!(anna.token);
    let good = |role: &str, name: &str| json!({"valid": true, "user_id": anna.user["id"], "role": role, "username": name});
    let bad = json!({"valid": false, "user_id": null, "role": null, "username": null});

    assert_eq!(verify(of_anna.clone()).await.expect(200), good("USER", "Анна"));
    set_role(&admin, &anna, "ADMIN").await.expect(200);
    anna.put(Node::Auth, ME, json!({"username": "Нюра"})).await.expect(200);
    assert_eq!(verify(of_anna.clone()).await.expect(200), good("ADMIN", "Нюра"));
    for token in ["", "x", "a.b.c", "Bearer", "\0"] {
        assert_eq!(verify(json!(token)).await.expect(200), bad);
    }
    admin.delete(Node::Auth, &format!("{USERS}/{}", anna.id())).await.expect(200);
    assert_eq!(verify(of_anna).await.expect(200), bad);

    for token in [json!(null), json!(7), json!({})] {
        assert_eq!(verify(token).await.broken_fields(), ["token"]);
    }
    assert_eq!(shop.nobody().post(Node::Auth, VERIFY, json!({})).await.broken_fields(), ["token"]);
    shop.close().await;
}

#[tokio::test]
async fn only_a_good_token_opens_a_door_on_any_node() {
    let shop = TestShop::start().await;
    let anna = shop.user("Анна").await;
    let token = anna.token.as_deref().expect("a token");
    let claims = anna.claims();
    let but = |claim: &str, value: Value| {
        let mut claims = claims.clone();
        claims[claim] = value;
        claims
    };
    let without = |claim: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().and_then(|claims| claims.remove(claim));
        claims
    };
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let forged = |claims: &Value| bearer(&forge(claims, HS256, SECRET));
    let [header, payload, signature]: [&str; 3] =
        token.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let another = forge(&but("role", json!("ADMIN")), HS256, SECRET);
    let another = another.split('.').nth(1).expect("a payload");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"; // {"alg":"none","typ":"JWT"}
    let seconds = |claim: &str| claims[claim].as_i64().expect("seconds");

    let doors = [
        (Node::Auth, ME),
        (Node::Catalog, "/api/v1/categories"),
        (Node::Catalog, "/api/v1/products"),
        (Node::Catalog, "/api/v1/products_with_category?id=1"),
        (Node::Order, "/order/1"),
    ];
    for (what, credentials) in [
        ("none", None),
        ("empty", Some(String::new())),
        ("a scheme alone", Some("Bearer".into())),
        ("a scheme and nothing", Some("Bearer ".into())),
        ("no scheme", Some(token.into())),
        ("another scheme", Some(format!("Basic {token}"))),
        ("another scheme that begins alike", Some(format!("Bearerx {token}"))),
        ("two tokens", Some(format!("Bearer {token} {token}"))),
        ("malformed", bearer("abc")),
        ("dots", bearer("..")),
        ("very long", bearer(&"x".repeat(6000))),
        ("a cut signature", bearer(&token[..token.len() - 2])),
        ("no signature", bearer(&format!("{header}.{payload}."))),
        ("another payload", bearer(&format!("{header}.{another}.{signature}"))),
        ("no algorithm", bearer(&format!("{none}.{payload}."))),
        ("no algorithm, with a signature", bearer(&format!("{none}.{payload}.{signature}"))),
        ("another key", bearer(&forge(&claims, HS256, "fedcba9876543210fedcba9876543210"))),
        ("an empty key", bearer(&forge(&claims, HS256, ""))),
        ("HS384", bearer(&forge(&claims, HS384, SECRET))),
        ("HS512", bearer(&forge(&claims, HS512, SECRET))),
        ("expired", forged(&but("exp", json!(seconds("iat") - 1)))),
        ("expired long ago", forged(&but("exp", json!(0)))),
        ("no end", forged(&without("exp"))),
        ("an end that is no number", forged(&but("exp", json!("never")))),
        ("nobody's", forged(&without("sub"))),
        ("a name's", forged(&but("sub", json!("Анна")))),
        ("somebody's who never was", forged(&but("sub", json!(Uuid::new_v4())))),
        ("claiming too much", forged(&but("role", json!("ADMIN")))),
    ] {
        for (node, path) in doors {
            let mut request = shop.nobody().request(Method::GET, node, path);
            if let Some(credentials) = &credentials {
                request = request.header("authorization", credentials);
            }
            let answer = Answer::of(request).await;
            assert_eq!(
                answer.status, 401,
                "a token that is {what}: {}: {}",
                answer.call, answer.text
            );
            answer.expect(401);
        }
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = shop.nobody().request(Method::GET, Node::Auth, ME);
        let request = request.header("authorization", format!("{scheme} {token}"));
        Answer::of(request).await.expect(200);
    }
    shop.close().await;
}

/// Nodes that believe what auth said for an hour, unless an event tells them better.
async fn credulous() -> TestShop {
    let mut settings = Settings::new(Over::Bus).await;
    settings.set("SHOP__JWT__VERIFICATION_CACHE_SECONDS", "3600");
    TestShop::with(settings).await
}

async fn add_category(client: &Client) -> Answer {
    client.post(Node::Catalog, "/api/v1/category", json!({"name": "Чайники"})).await
}

#[tokio::test]
async fn a_deleted_users_token_ends_on_every_node() {
    let shop = credulous().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let doors = [(Node::Catalog, "/api/v1/products"), (Node::Order, "/order/1")];
    for (node, path) in doors {
        let answer = anna.get(node, path).await;
        assert_ne!(answer.status, 401, "{answer:?}");
    }
    admin.delete(Node::Auth, &format!("{USERS}/{}", anna.id())).await.expect(200);
    anna.get(Node::Auth, ME).await.expect(401);
    for (node, path) in doors {
        eventually(async || same(anna.get(node, path).await.status.as_u16(), 401)).await;
    }
    shop.close().await;
}

#[tokio::test]
async fn a_demoted_administrators_token_ends_on_every_node() {
    let shop = credulous().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    set_role(&admin, &anna, "ADMIN").await.expect(200);
    let anna = shop.nobody().sign_in("anna").await;
    add_category(&anna).await.expect(201);
    anna.get(Node::Order, "/order/1").await.expect(404);

    set_role(&admin, &anna, "USER").await.expect(200);
    anna.get(Node::Auth, ME).await.expect(401);
    anna.get(Node::Auth, USERS).await.expect(401);
    eventually(async || same(add_category(&anna).await.status.as_u16(), 401)).await;
    eventually(async || same(anna.get(Node::Order, "/order/1").await.status.as_u16(), 401)).await;

    let anna = shop.nobody().sign_in("anna").await;
    assert_eq!(anna.claims()["role"], "USER");
    add_category(&anna).await.expect(403);
    anna.get(Node::Auth, USERS).await.expect(403);
    shop.close().await;
}

#[tokio::test]
async fn a_promoted_user_may_more_on_every_node() {
    let shop = credulous().await;
    let (admin, anna, vera) =
        (shop.admin().await, shop.user("anna").await, shop.user("vera").await);
    let teapot = admin.product(1990, 10).await;
    let order = vera.order(&[(&teapot, 1)]).await.expect(201);
    let path = format!("/order/{}", order["id"]);
    add_category(&anna).await.expect(403);
    anna.get(Node::Order, &path).await.expect(403);

    set_role(&admin, &anna, "ADMIN").await.expect(200);
    anna.get(Node::Auth, USERS).await.expect(200);
    eventually(async || same(add_category(&anna).await.status.as_u16(), 201)).await;
    eventually(async || same(anna.get(Node::Order, &path).await.status.as_u16(), 200)).await;
    shop.close().await;
}

#[tokio::test]
async fn what_is_kept_of_a_password_is_a_bcrypt_hash() {
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
