//! What every node does alike: health, metrics, documentation, and errors of invalid requests.

use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;

use shop_tests::api::Order;
use shop_tests::{Client, Response, TestShop, equal, eventually};

/// Every request with a body.
const WITH_BODY: [(Node, Method, &str); 8] = [
    (Node::Auth, Method::POST, "/api/v1/auth/register"),
    (Node::Auth, Method::POST, "/api/v1/auth/login"),
    (Node::Auth, Method::POST, "/api/v1/auth/verify"),
    (Node::Auth, Method::PUT, "/api/v1/users/me"),
    (Node::Catalog, Method::POST, "/api/v1/category"),
    (Node::Catalog, Method::POST, "/api/v1/product"),
    (Node::Order, Method::POST, "/order"),
    (Node::Order, Method::PUT, "/update_order/1"),
];

#[tokio::test]
async fn every_node_reports_its_health() {
    let shop = TestShop::start().await;
    for node in Node::ALL {
        for path in ["/", "/health/live", "/health/ready", "/health/ready/"] {
            // A node is ready when it is connected to the broker.
            eventually(async || {
                equal(shop.anonymous().get(node, path).await.json(), json!({"status": "ok"}))
            })
            .await;
        }
        assert!(
            !node.database(&shop.settings.config()).echo,
            "statements are not logged by default"
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn every_node_has_metrics() {
    let shop = TestShop::start_single_replica().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    for (node, route) in [
        (Node::Auth, "/api/v1/auth/login"),
        (Node::Catalog, "/api/v1/product"),
        (Node::Order, "/order"),
    ] {
        let response = shop.anonymous().get(node, "/metrics").await;
        assert_eq!(response.status, 200);
        assert!(response.header("content-type").starts_with("text/plain; version=0.0.4"));
        for expected in [route, "_bucket{", "mailbox", "outbox", "pool", "# TYPE"] {
            assert!(
                response.text.contains(expected),
                "{node:?}: no {expected}:\n{}",
                response.text
            );
        }
        for (number, line) in response.text.lines().enumerate().filter(|(_, l)| !l.starts_with('#'))
        {
            let value = line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
            assert!(value.is_some(), "{node:?} line {number} is not Prometheus text: {line}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_create_no_metrics() {
    let shop = TestShop::start().await;
    let made_up = Method::from_bytes(b"MADEUP").expect("a method");
    shop.anonymous().send(made_up, Node::Auth, "/made/up", None).await;
    shop.anonymous().get(Node::Auth, "/api/v1/users/madeup").await.expect(401);
    let metrics = shop.anonymous().get(Node::Auth, "/metrics").await.text;
    assert!(
        !metrics.to_lowercase().contains("madeup") && !metrics.contains("/made/up"),
        "{metrics}"
    );
    shop.close().await;
}

#[tokio::test]
async fn every_request_is_documented() {
    let shop = TestShop::start().await;
    let calls: [(Node, &[&str]); 3] = [
        (
            Node::Auth,
            &[
                "post /api/v1/auth/register",
                "post /api/v1/auth/login",
                "post /api/v1/auth/verify",
                "get /api/v1/users/me",
                "put /api/v1/users/me",
                "get /api/v1/users",
                "get /api/v1/users/{user_id}",
                "put /api/v1/users/{user_id}/role",
                "delete /api/v1/users/{user_id}",
            ],
        ),
        (
            Node::Catalog,
            &[
                "post /api/v1/category",
                "get /api/v1/categories",
                "post /api/v1/product",
                "get /api/v1/products",
                "get /api/v1/products_with_category",
            ],
        ),
        (Node::Order, &["post /order", "get /order/{order_id}", "put /update_order/{order_id}"]),
    ];
    let on_every_node = [
        "get /admin/dead-letters",
        "get /admin/dead-letters/{id}",
        "post /admin/dead-letters/{id}/redrive",
        "delete /admin/dead-letters/{id}",
    ];
    for (node, calls) in calls {
        let api = shop.anonymous().get(node, "/openapi.json").await.expect(200);
        let version = api["openapi"].as_str().unwrap_or_default();
        assert!(version.starts_with("3.1"), "{version}");
        let snapshot = [
            "get /admin/ledger",
            "get /admin/snapshot/users",
            "get /admin/snapshot/products",
            "get /admin/snapshot/movements",
            "get /admin/snapshot/summary",
        ];
        for call in calls.iter().chain(&on_every_node).chain(&snapshot) {
            let (method, path) = call.split_once(' ').expect("a method and a path");
            let paths = &api["paths"];
            let call = [path, &format!("{path}/")].map(|path| paths[path][method].is_object());
            assert!(call.contains(&true), "{node:?}: {method} {path} is not documented");
        }
        let docs = shop.anonymous().get(node, "/docs/").await;
        assert_eq!(docs.status, 200, "{docs:?}");
        assert!(docs.header("content-type").starts_with("text/html"));
        for foreign in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
            assert!(
                !docs.text.contains(foreign),
                "the page loads from another host: {}",
                docs.text
            );
        }
        let docs = shop.anonymous().get(node, "/docs").await;
        assert_eq!(docs.status, 200, "{docs:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn every_response_carries_the_request_id() {
    let shop = TestShop::start().await;
    let with_id = async |node, path: &str, id: &[u8]| {
        let request = shop.anonymous().request(Method::GET, node, path).header("x-request-id", id);
        Response::of(request).await.header("x-request-id").to_owned()
    };
    let (longest, too_long) = ("x".repeat(64), "x".repeat(10_000));
    for node in Node::ALL {
        for path in [
            "/",
            "/nowhere",
            "/metrics",
            "/docs/",
            "/openapi.json",
            "/order/1",
            "/api/v1/users",
            "/%FF",
        ] {
            for valid in ["a", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", &longest] {
                assert_eq!(with_id(node, path, valid.as_bytes()).await, valid, "{node:?} {path}");
            }
            for invalid in ["", "a b", "a\tb", "<script>", "x=\"1\"", &too_long, "идентификатор"]
            {
                let id = with_id(node, path, invalid.as_bytes()).await;
                assert!(!id.is_empty() && id != invalid && id.len() <= 64, "{node:?} {path}: {id}");
            }
            let (one, other) =
                (shop.anonymous().get(node, path).await, shop.anonymous().get(node, path).await);
            assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_trailing_slash_is_ignored() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 10).await;
    let order: Order = admin.order(&[(&teapot, 1)]).await.read(201);
    let paths = [
        (Node::Auth, "/api/v1/users".to_owned()),
        (Node::Auth, "/api/v1/users/me".to_owned()),
        (Node::Auth, format!("/api/v1/users/{}", admin.id())),
        (Node::Auth, "/openapi.json".to_owned()),
        (Node::Catalog, "/api/v1/categories".to_owned()),
        (Node::Catalog, "/api/v1/products".to_owned()),
        (Node::Catalog, "/health/live".to_owned()),
        (Node::Order, order.path()),
    ];
    for (node, path) in paths {
        let response = admin.get(node, &path).await.expect(200);
        assert_eq!(admin.get(node, &format!("{path}/")).await.expect(200), response, "{path}");
    }
    let of = format!("/api/v1/products_with_category/?id={}", teapot.category_id);
    assert_eq!(admin.get(Node::Catalog, &of).await.expect(200)[0]["id"], teapot.id);
    for (node, method, path) in WITH_BODY {
        let response = admin.send(method, node, &format!("{path}/"), Some(json!([]))).await;
        response.expect(422);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_unknown_path_is_404_and_an_unknown_method_405() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for node in Node::ALL {
        let made_up = format!("/{}", "x".repeat(5_000));
        for path in [
            "/nowhere",
            "/api/v1",
            "/api/v1/nowhere",
            "/ORDER/1",
            "/order/1/2",
            "/../etc/passwd",
            "/%00",
            "/%FF",
            &made_up,
        ] {
            for client in [&shop.anonymous(), &admin] {
                client.get(node, path).await.expect(404);
                client.post(node, path, json!({})).await.expect(404);
            }
        }
        for (method, path) in [
            (Method::POST, "/"),
            (Method::DELETE, "/health/live"),
            (Method::PUT, "/metrics"),
            (Method::POST, "/openapi.json"),
        ] {
            let response = admin.send(method, node, path, None).await;
            response.expect(405);
            assert!(response.header("allow").contains("GET"), "{response:?}");
        }
    }
    for (node, method, path, allowed) in [
        (Node::Auth, Method::GET, "/api/v1/auth/register", "POST"),
        (Node::Auth, Method::PUT, "/api/v1/auth/login", "POST"),
        (Node::Auth, Method::DELETE, "/api/v1/users", "GET"),
        (Node::Auth, Method::POST, "/api/v1/users/me", "PUT"),
        (Node::Auth, Method::PATCH, "/api/v1/users/me", "GET"),
        (Node::Auth, Method::GET, "/api/v1/users/1/role", "PUT"),
        (Node::Catalog, Method::GET, "/api/v1/category", "POST"),
        (Node::Catalog, Method::POST, "/api/v1/categories", "GET"),
        (Node::Catalog, Method::DELETE, "/api/v1/product", "POST"),
        (Node::Catalog, Method::POST, "/api/v1/products", "GET"),
        (Node::Catalog, Method::POST, "/api/v1/products_with_category", "GET"),
        (Node::Order, Method::GET, "/order", "POST"),
        (Node::Order, Method::PUT, "/order/1", "GET"),
        (Node::Order, Method::GET, "/update_order/1", "PUT"),
    ] {
        let response = admin.send(method, node, path, None).await;
        response.expect(405);
        assert!(response.header("allow").contains(allowed), "{response:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_body_must_be_json_with_its_content_type() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let json = Some("application/json");
    let bodies: [&[u8]; 14] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"nul",
        b"{\"name\": }",
        b"{} {}",
        b"{}x",
        b"{'name': 'x'}",
        b"{\"a\": 01}",
        b"{\"username\": \"\\ud800\"}",
        b"{\"name\": \"\xff\"}",
        b"\xfe\xff\0{\0}",
        b"name=x&price=1",
    ];
    for (node, method, path) in WITH_BODY {
        for body in bodies {
            admin.send_raw(method.clone(), node, path, json, body).await.expect(400);
        }
        let deep = "[".repeat(100_000);
        admin.send_raw(method.clone(), node, path, json, deep).await.expect(400);
        for other in [
            None,
            Some(""),
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("text/json"),
            Some("application/jsonx"),
            Some("multipart/form-data; boundary=x"),
        ] {
            admin.send_raw(method.clone(), node, path, other, "[]").await.expect(415);
        }
        for equivalent in
            ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
        {
            admin.send_raw(method.clone(), node, path, Some(equivalent), "[]").await.expect(422);
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_body_has_at_most_one_mebibyte() {
    const MEBIBYTE: usize = 1 << 20;
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let body = |length: usize| format!("[]{}", " ".repeat(length - 2));
    for (node, method, path) in WITH_BODY {
        let send = async |client: &Client, length: usize| {
            client
                .send_raw(method.clone(), node, path, Some("application/json"), body(length))
                .await
        };
        send(&admin, MEBIBYTE).await.expect(422);
        send(&admin, MEBIBYTE + 1).await.expect(413);
        send(&admin, 2 * MEBIBYTE).await.expect(413);
    }
    shop.close().await;
}
