//! Tokens: which ones are valid, and when every node learns that one no longer is.

use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::api::Order;
use shop_tests::{
    BrokerKind, Client, Response, SECRET, Settings, TestShop, equal, eventually, sign,
};
use uuid::Uuid;

use super::{ME, USERS, VERIFY, set_role};

#[tokio::test]
async fn verify_returns_the_current_user_and_role_of_a_token() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let verify = async |token: Value| {
        shop.anonymous().post(Node::Auth, VERIFY, json!({"token": token})).await
    };
    let of_anna = json!(anna.token);
    let good = |role: &str, name: &str| json!({"valid": true, "user_id": anna.id(), "role": role, "username": name});
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
        assert_eq!(verify(token).await.invalid_fields(), ["token"]);
    }
    assert_eq!(
        shop.anonymous().post(Node::Auth, VERIFY, json!({})).await.invalid_fields(),
        ["token"]
    );
    shop.close().await;
}

#[tokio::test]
async fn every_node_rejects_every_invalid_token() {
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
    let forged = |claims: &Value| bearer(&sign(claims, HS256, SECRET));
    let [header, payload, signature]: [&str; 3] =
        token.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let another = sign(&but("role", json!("ADMIN")), HS256, SECRET);
    let another = another.split('.').nth(1).expect("a payload");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"; // {"alg":"none","typ":"JWT"}
    let seconds = |claim: &str| claims[claim].as_i64().expect("seconds");

    let routes = [
        (Node::Auth, ME),
        (Node::Catalog, "/api/v1/categories"),
        (Node::Catalog, "/api/v1/products"),
        (Node::Catalog, "/api/v1/products_with_category?id=1"),
        (Node::Order, "/order/1"),
    ];
    for (what, credentials) in [
        ("missing", None),
        ("empty", Some(String::new())),
        ("only a scheme", Some("Bearer".into())),
        ("only a scheme and a space", Some("Bearer ".into())),
        ("without a scheme", Some(token.into())),
        ("of another scheme", Some(format!("Basic {token}"))),
        ("of a scheme that starts with Bearer", Some(format!("Bearerx {token}"))),
        ("followed by another token", Some(format!("Bearer {token} {token}"))),
        ("malformed", bearer("abc")),
        ("only dots", bearer("..")),
        ("very long", bearer(&"x".repeat(6000))),
        ("with a truncated signature", bearer(&token[..token.len() - 2])),
        ("without a signature", bearer(&format!("{header}.{payload}."))),
        ("with another payload", bearer(&format!("{header}.{another}.{signature}"))),
        ("with algorithm none", bearer(&format!("{none}.{payload}."))),
        ("with algorithm none and a signature", bearer(&format!("{none}.{payload}.{signature}"))),
        (
            "signed with another key",
            bearer(&sign(&claims, HS256, "fedcba9876543210fedcba9876543210")),
        ),
        ("signed with an empty key", bearer(&sign(&claims, HS256, ""))),
        ("signed with HS384", bearer(&sign(&claims, HS384, SECRET))),
        ("signed with HS512", bearer(&sign(&claims, HS512, SECRET))),
        ("expired", forged(&but("exp", json!(seconds("iat") - 1)))),
        ("expired long ago", forged(&but("exp", json!(0)))),
        ("without expiry", forged(&without("exp"))),
        ("whose expiry is not a number", forged(&but("exp", json!("never")))),
        ("without a subject", forged(&without("sub"))),
        ("whose subject is a name", forged(&but("sub", json!("Анна")))),
        ("of an unknown user", forged(&but("sub", json!(Uuid::new_v4())))),
        ("that claims another role", forged(&but("role", json!("ADMIN")))),
    ] {
        for (node, path) in routes {
            let mut request = shop.anonymous().request(Method::GET, node, path);
            if let Some(credentials) = &credentials {
                request = request.header("authorization", credentials);
            }
            let response = Response::of(request).await;
            assert_eq!(
                response.status, 401,
                "a token that is {what}: {}: {}",
                response.request, response.text
            );
            response.expect(401);
        }
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = shop.anonymous().request(Method::GET, Node::Auth, ME);
        let request = request.header("authorization", format!("{scheme} {token}"));
        Response::of(request).await.expect(200);
    }
    shop.close().await;
}

/// A shop whose nodes cache verified tokens for an hour, unless an event invalidates them.
async fn start_with_long_token_cache() -> TestShop {
    let mut settings = Settings::new(BrokerKind::Bus).await;
    settings.set("SHOP__JWT__VERIFICATION_CACHE_SECONDS", "3600");
    TestShop::start_with(settings).await
}

async fn add_category(client: &Client) -> Response {
    client.post(Node::Catalog, "/api/v1/category", json!({"name": "Чайники"})).await
}

#[tokio::test]
async fn every_node_rejects_the_token_of_a_deleted_user() {
    let shop = start_with_long_token_cache().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let routes = [(Node::Catalog, "/api/v1/products"), (Node::Order, "/order/1")];
    for (node, path) in routes {
        let response = anna.get(node, path).await;
        assert_ne!(response.status, 401, "{response:?}");
    }
    admin.delete(Node::Auth, &format!("{USERS}/{}", anna.id())).await.expect(200);
    anna.get(Node::Auth, ME).await.expect(401);
    for (node, path) in routes {
        eventually(async || equal(anna.get(node, path).await.status.as_u16(), 401)).await;
    }
    shop.close().await;
}

#[tokio::test]
async fn every_node_rejects_the_token_of_a_demoted_administrator() {
    let shop = start_with_long_token_cache().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    set_role(&admin, &anna, "ADMIN").await.expect(200);
    let anna = shop.anonymous().log_in("anna").await;
    add_category(&anna).await.expect(201);
    anna.get(Node::Order, "/order/1").await.expect(404);

    set_role(&admin, &anna, "USER").await.expect(200);
    anna.get(Node::Auth, ME).await.expect(401);
    anna.get(Node::Auth, USERS).await.expect(401);
    eventually(async || equal(add_category(&anna).await.status.as_u16(), 401)).await;
    eventually(async || equal(anna.get(Node::Order, "/order/1").await.status.as_u16(), 401)).await;

    let anna = shop.anonymous().log_in("anna").await;
    assert_eq!(anna.claims()["role"], "USER");
    add_category(&anna).await.expect(403);
    anna.get(Node::Auth, USERS).await.expect(403);
    shop.close().await;
}

#[tokio::test]
async fn every_node_grants_a_promoted_user_the_new_role() {
    let shop = start_with_long_token_cache().await;
    let (admin, anna, vera) =
        (shop.admin().await, shop.user("anna").await, shop.user("vera").await);
    let teapot = admin.product(1990, 10).await;
    let order: Order = vera.order(&[(&teapot, 1)]).await.read(201);
    let path = order.path();
    add_category(&anna).await.expect(403);
    anna.get(Node::Order, &path).await.expect(403);

    set_role(&admin, &anna, "ADMIN").await.expect(200);
    anna.get(Node::Auth, USERS).await.expect(200);
    eventually(async || equal(add_category(&anna).await.status.as_u16(), 201)).await;
    eventually(async || equal(anna.get(Node::Order, &path).await.status.as_u16(), 200)).await;
    shop.close().await;
}
