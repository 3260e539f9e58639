//! The catalog: categories and the products in them.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;

use shop_tests::api::{Category, Product};
use shop_tests::{Client, Response, TestShop};

const CATEGORY: &str = "/api/v1/category";
const CATEGORIES: &str = "/api/v1/categories";
const PRODUCT: &str = "/api/v1/product";
const PRODUCTS: &str = "/api/v1/products";

async fn add(admin: &Client, path: &str, body: Value) -> Response {
    admin.post(Node::Catalog, path, body).await
}

/// Numbers outside `i64`, and values of other types.
fn invalid_integers() -> Vec<Value> {
    let numbers =
        ["9223372036854775808", "-9223372036854775809", "1e30", "1000000000000000000000", "1.5"];
    let numbers = numbers.map(|number| number.parse::<Value>().expect("a number"));
    let others = [json!("5"), json!(""), json!(true), json!([1]), json!({})];
    numbers.into_iter().chain(others).collect()
}

/// Names that violate the rule.
fn invalid_names() -> Vec<Value> {
    let too_long = "ы".repeat(201);
    let texts = [
        "",
        "   ",
        "\u{a0}\u{3000}",
        "\n",
        "a\nb",
        "a\tb",
        "a\0b",
        "\0",
        "a\u{7f}",
        "a\u{85}b",
        too_long.as_str(),
    ];
    let others = [json!(null), json!(7), json!(["a"]), json!({})];
    texts.map(Value::from).into_iter().chain(others).collect()
}

#[tokio::test]
async fn users_read_the_catalog_and_administrators_change_it() {
    let shop = TestShop::start().await;
    let (anonymous, admin, user) = (shop.anonymous(), shop.admin().await, shop.user("anna").await);
    let kitchen = admin.category("Кухня", None).await;
    let of_kitchen = format!("/api/v1/products_with_category?id={}", kitchen.id);
    let product = json!({"name": "cup", "price": 1, "quantity": 1, "category_id": kitchen.id});
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, body, statuses) in [
        (&get, CATEGORIES, None, [401, 200, 200]),
        (&get, PRODUCTS, None, [401, 200, 200]),
        (&get, &of_kitchen, None, [401, 200, 200]),
        (&get, "/api/v1/products_with_category?id=987654321", None, [401, 404, 404]),
        (&get, "/api/v1/products_with_category?id=x", None, [401, 400, 400]),
        (&post, CATEGORY, Some(json!({"name": "Ванная"})), [401, 403, 201]),
        (&post, CATEGORY, Some(json!({})), [401, 403, 422]),
        (&post, PRODUCT, Some(product), [401, 403, 201]),
        (&post, PRODUCT, Some(json!({})), [401, 403, 422]),
    ] {
        for (caller, status) in [&anonymous, &user, &admin].into_iter().zip(statuses) {
            caller.send(method.clone(), Node::Catalog, path, body.clone()).await.expect(status);
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn an_empty_catalog_has_empty_lists() {
    let shop = TestShop::start().await;
    let anna = shop.user("anna").await;
    for path in [CATEGORIES, PRODUCTS] {
        assert_eq!(anna.get(Node::Catalog, path).await.expect(200), json!([]));
    }
    shop.close().await;
}

#[tokio::test]
async fn categories_form_a_tree_and_are_listed_after_their_parents() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut created: Vec<Category> = vec![];
    for root in [
        json!({"name": "absent"}),
        json!({"name": "null", "parent_id": null}),
        json!({"name": "0", "parent_id": 0}),
    ] {
        let name = root["name"].as_str().unwrap().to_owned();
        let root: Category = add(&admin, CATEGORY, root).await.read(201);
        assert_eq!(root, Category { id: root.id, name, parent_id: None, level: 0 });
        created.push(root);
    }
    for level in 1..=40 {
        let parent_id = Some(created[created.len() - 1].id);
        let child = admin.category("deep", parent_id).await;
        assert_eq!(child, Category { id: child.id, name: "deep".to_owned(), parent_id, level });
        created.push(child);
    }
    created.push(admin.category("a later child of an early parent", Some(created[0].id)).await);

    let listed: Vec<Category> = admin.get(Node::Catalog, CATEGORIES).await.read(200);
    assert_eq!(listed.len(), created.len());
    for category in &created {
        assert!(listed.contains(category), "{category:?}");
    }
    let position = |id: i64| listed.iter().position(|category| category.id == id);
    for category in &listed {
        if let Some(parent) = category.parent_id {
            assert!(position(parent) < position(category.id), "{category:?}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_name_is_trimmed_and_has_1_to_200_characters() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", None).await;
    let product =
        |name: &Value| json!({"name": name, "price": 1, "quantity": 1, "category_id": category.id});
    let (longest, foxes) = ("ы".repeat(200), "🦊".repeat(200));
    let padded = format!("  {longest}\u{a0}\n");
    for (name, stored) in [
        ("x", "x"),
        ("  Синий чайник ", "Синий чайник"),
        ("\u{a0}a  b\u{3000}", "a  b"),
        ("'; drop table products; --", "'; drop table products; --"),
        ("<b>\\\"\u{202e}", "<b>\\\"\u{202e}"),
        (&longest, &longest),
        (&foxes, &foxes),
        (&padded, &longest),
    ] {
        assert_eq!(add(&admin, CATEGORY, json!({"name": name})).await.expect(201)["name"], stored);
        assert_eq!(add(&admin, PRODUCT, product(&json!(name))).await.expect(201)["name"], stored);
    }
    for name in invalid_names() {
        for (path, body) in [(CATEGORY, json!({"name": name})), (PRODUCT, product(&name))] {
            let response = add(&admin, path, body).await;
            assert_eq!(response.invalid_fields(), ["name"], "{}", response.request);
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn the_parent_of_a_category_must_exist() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let unknown = [json!(987_654_321), json!(-1), json!(i64::MAX), json!(i64::MIN)];
    for parent in invalid_integers().into_iter().chain(unknown) {
        let response = add(&admin, CATEGORY, json!({"name": "Чайники", "parent_id": parent})).await;
        assert_eq!(response.invalid_fields(), ["parent_id"], "{}", response.request);
    }
    let both = ["name", "parent_id"];
    for (body, fields) in [
        (json!({"name": " ", "parent_id": "x"}), &both[..]),
        (json!({"parent_id": 1.5}), &both),
        (json!({}), &both[..1]),
        (json!([]), &["body"]),
        (json!("Чайники"), &["body"]),
    ] {
        let response = add(&admin, CATEGORY, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    assert_eq!(admin.get(Node::Catalog, CATEGORIES).await.expect(200), json!([]));
    shop.close().await;
}

#[tokio::test]
async fn price_and_quantity_of_a_product_are_bounded() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", None).await;
    let with = |field: &str, value: &Value| {
        let mut product =
            json!({"name": "cup", "price": 1, "quantity": 1, "category_id": category.id});
        product[field] = value.clone();
        product
    };
    for (field, max) in [("price", 1_000_000_000_000_i64), ("quantity", 1_000_000_000)] {
        let shown = if field == "price" { "price" } else { "storage_quantity" };
        for good in [0, 1, max] {
            let product = add(&admin, PRODUCT, with(field, &json!(good))).await.expect(201);
            assert_eq!(product[shown], good, "{product}");
        }
        let outside = [json!(-1), json!(max + 1), json!(i64::MAX), json!(i64::MIN), json!(null)];
        for bad in invalid_integers().iter().chain(&outside) {
            let response = add(&admin, PRODUCT, with(field, bad)).await;
            assert_eq!(response.invalid_fields(), [field], "{}", response.request);
        }
    }
    let unknown = [json!(987_654_321), json!(0), json!(-1), json!(i64::MAX), json!(null)];
    for bad in invalid_integers().iter().chain(&unknown) {
        let response = add(&admin, PRODUCT, with("category_id", bad)).await;
        assert_eq!(response.invalid_fields(), ["category_id"], "{}", response.request);
    }
    let listed = admin.get(Node::Catalog, PRODUCTS).await.expect(200);
    assert_eq!(listed.as_array().map(Vec::len), Some(6), "rejected products are not stored");
    shop.close().await;
}

#[tokio::test]
async fn a_product_reports_all_invalid_fields_together() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let all = ["category_id", "name", "price", "quantity"];
    for (body, fields) in [
        (json!({}), &all[..]),
        (json!({"name": "\0", "price": -1, "quantity": 1.5, "category_id": "x"}), &all),
        (
            json!({"name": "cup", "price": "1", "quantity": 1, "category_id": null}),
            &["category_id", "price"],
        ),
        (json!(null), &["body"]),
        (json!([{}]), &["body"]),
    ] {
        let response = add(&admin, PRODUCT, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    shop.close().await;
}

#[tokio::test]
async fn products_are_listed_by_id_and_by_category() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let kitchen = admin.category("Кухня", None).await;
    let teapots = admin.category("Чайники", Some(kitchen.id)).await;
    let empty = admin.category("Пусто", None).await;
    let add_product = async |number: i64| -> Product {
        let category_id = if number % 3 == 0 { kitchen.id } else { teapots.id };
        let name = format!("№ {number}");
        let new = json!({
            "name": name, "price": number, "quantity": number, "category_id": category_id
        });
        let product: Product = add(&admin, PRODUCT, new).await.read(201);
        let (price, storage_quantity) = (number, number);
        let expected = Product { id: product.id, name, price, storage_quantity, category_id };
        assert_eq!(product, expected);
        product
    };
    let mut products = join_all((0..20).map(add_product)).await;
    products.sort_by_key(|product| product.id);
    let listed: Vec<Product> = anna.get(Node::Catalog, PRODUCTS).await.read(200);
    assert_eq!(listed, products);
    for category in [&kitchen, &teapots, &empty] {
        let path = format!("/api/v1/products_with_category?id={}", category.id);
        let listed: Vec<Product> = anna.get(Node::Catalog, &path).await.read(200);
        let in_category = |product: &&Product| product.category_id == category.id;
        let expected: Vec<_> = products.iter().filter(in_category).cloned().collect();
        assert_eq!(listed, expected);
    }
    for query in [
        "",
        "?",
        "?id",
        "?id=",
        "?id=x",
        "?id=1.5",
        "?id=99999999999999999999",
        "?id=%FF",
        "?ID=1",
        "?id=%00",
    ] {
        let path = format!("/api/v1/products_with_category{query}");
        anna.get(Node::Catalog, &path).await.expect(400);
    }
    for id in ["0", "-1", "9223372036854775807"] {
        let path = format!("/api/v1/products_with_category?id={id}");
        anna.get(Node::Catalog, &path).await.expect(404);
    }
    shop.close().await;
}
