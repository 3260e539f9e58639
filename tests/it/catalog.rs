//! The catalog: categories and the products in them.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;

use crate::shop::{Answer, Client, TestShop};

const CATEGORY: &str = "/api/v1/category";
const CATEGORIES: &str = "/api/v1/categories";
const PRODUCT: &str = "/api/v1/product";
const PRODUCTS: &str = "/api/v1/products";

async fn add(admin: &Client, path: &str, body: Value) -> Answer {
    admin.post(Node::Catalog, path, body).await
}

/// Numbers that are none of `i64`, and values that are no numbers.
fn no_numbers() -> Vec<Value> {
    let numbers =
        ["9223372036854775808", "-9223372036854775809", "1e30", "1000000000000000000000", "1.5"];
    let numbers = numbers.map(|number| number.parse::<Value>().expect("a number"));
    let others = [json!("5"), json!(""), json!(true), json!([1]), json!({})];
    numbers.into_iter().chain(others).collect()
}

/// Names that break the rule.
fn no_names() -> Vec<Value> {
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
async fn whoever_is_signed_in_reads_the_catalog_and_administrators_write_it() {
    let shop = TestShop::start().await;
    let (nobody, admin, user) = (shop.nobody(), shop.admin().await, shop.user("anna").await);
    let kitchen = admin.category("Кухня", json!(null)).await;
    let of_kitchen = format!("/api/v1/products_with_category?id={}", kitchen["id"]);
    let product = json!({"name": "cup", "price": 1, "quantity": 1, "category_id": kitchen["id"]});
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
        for (caller, status) in [&nobody, &user, &admin].into_iter().zip(statuses) {
            caller.send(method.clone(), Node::Catalog, path, body.clone()).await.expect(status);
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn an_empty_catalog_is_an_empty_list() {
    let shop = TestShop::start().await;
    let anna = shop.user("anna").await;
    for path in [CATEGORIES, PRODUCTS] {
        assert_eq!(anna.get(Node::Catalog, path).await.expect(200), json!([]));
    }
    shop.close().await;
}

#[tokio::test]
async fn categories_are_a_tree_and_parents_come_first() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut made = vec![];
    for root in [
        json!({"name": "absent"}),
        json!({"name": "null", "parent_id": null}),
        json!({"name": "0", "parent_id": 0}),
    ] {
        let root = add(&admin, CATEGORY, root).await.expect(201);
        let (id, name) = (&root["id"], &root["name"]);
        assert!(id.is_i64(), "{root}");
        assert_eq!(root, json!({"id": id, "name": name, "parent_id": null, "level": 0}));
        made.push(root);
    }
    for level in 1..=40 {
        let parent = &made[made.len() - 1]["id"];
        let child =
            add(&admin, CATEGORY, json!({"name": "deep", "parent_id": parent})).await.expect(201);
        assert_eq!(
            child,
            json!({"id": child["id"], "name": "deep", "parent_id": parent, "level": level})
        );
        made.push(child);
    }
    made.push(admin.category("a later child of an early parent", made[0]["id"].clone()).await);

    let listed = admin.get(Node::Catalog, CATEGORIES).await.expect(200);
    let listed = listed.as_array().expect("an array");
    assert_eq!(listed.len(), made.len());
    made.iter().for_each(|category| assert!(listed.contains(category), "{category}"));
    let place = |id: &Value| listed.iter().position(|category| &category["id"] == id);
    for category in listed.iter().filter(|category| !category["parent_id"].is_null()) {
        assert!(place(&category["parent_id"]) < place(&category["id"]), "{category}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_name_is_trimmed_and_has_1_to_200_characters() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", json!(null)).await;
    let product = |name: &Value| json!({"name": name, "price": 1, "quantity": 1, "category_id": category["id"]});
    let (longest, foxes) = ("ы".repeat(200), "🦊".repeat(200));
    let padded = format!("  {longest}\u{a0}\n");
    for (name, kept) in [
        ("x", "x"),
        ("  Синий чайник ", "Синий чайник"),
        ("\u{a0}a  b\u{3000}", "a  b"),
        ("'; drop table products; --", "'; drop table products; --"),
        ("<b>\\\"\u{202e}", "<b>\\\"\u{202e}"),
        (&longest, &longest),
        (&foxes, &foxes),
        (&padded, &longest),
    ] {
        assert_eq!(add(&admin, CATEGORY, json!({"name": name})).await.expect(201)["name"], kept);
        assert_eq!(add(&admin, PRODUCT, product(&json!(name))).await.expect(201)["name"], kept);
    }
    for name in no_names() {
        for (path, body) in [(CATEGORY, json!({"name": name})), (PRODUCT, product(&name))] {
            let answer = add(&admin, path, body).await;
            assert_eq!(answer.broken_fields(), ["name"], "{}", answer.call);
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_category_lies_in_one_that_exists() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let unknown = [json!(987_654_321), json!(-1), json!(i64::MAX), json!(i64::MIN)];
    for parent in no_numbers().into_iter().chain(unknown) {
        let answer = add(&admin, CATEGORY, json!({"name": "Чайники", "parent_id": parent})).await;
        assert_eq!(answer.broken_fields(), ["parent_id"], "{}", answer.call);
    }
    let both = ["name", "parent_id"];
    for (body, fields) in [
        (json!({"name": " ", "parent_id": "x"}), &both[..]),
        (json!({"parent_id": 1.5}), &both),
        (json!({}), &both[..1]),
        (json!([]), &["body"]),
        (json!("Чайники"), &["body"]),
    ] {
        let answer = add(&admin, CATEGORY, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    assert_eq!(admin.get(Node::Catalog, CATEGORIES).await.expect(200), json!([]));
    shop.close().await;
}

#[tokio::test]
async fn a_product_has_a_price_and_a_quantity_within_bounds() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", json!(null)).await;
    let with = |field: &str, value: &Value| {
        let mut product =
            json!({"name": "cup", "price": 1, "quantity": 1, "category_id": category["id"]});
        product[field] = value.clone();
        product
    };
    for (field, most) in [("price", 1_000_000_000_000_i64), ("quantity", 1_000_000_000)] {
        let shown = if field == "price" { "price" } else { "storage_quantity" };
        for good in [0, 1, most] {
            let product = add(&admin, PRODUCT, with(field, &json!(good))).await.expect(201);
            assert_eq!(product[shown], good, "{product}");
        }
        let outside = [json!(-1), json!(most + 1), json!(i64::MAX), json!(i64::MIN), json!(null)];
        for bad in no_numbers().iter().chain(&outside) {
            let answer = add(&admin, PRODUCT, with(field, bad)).await;
            assert_eq!(answer.broken_fields(), [field], "{}", answer.call);
        }
    }
    let unknown = [json!(987_654_321), json!(0), json!(-1), json!(i64::MAX), json!(null)];
    for bad in no_numbers().iter().chain(&unknown) {
        let answer = add(&admin, PRODUCT, with("category_id", bad)).await;
        assert_eq!(answer.broken_fields(), ["category_id"], "{}", answer.call);
    }
    let listed = admin.get(Node::Catalog, PRODUCTS).await.expect(200);
    assert_eq!(listed.as_array().map(Vec::len), Some(6), "what is refused is not there");
    shop.close().await;
}

#[tokio::test]
async fn every_rule_that_a_product_breaks_is_named_at_once() {
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
        let answer = add(&admin, PRODUCT, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    shop.close().await;
}

#[tokio::test]
async fn products_are_listed_by_id_and_by_category() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let kitchen = admin.category("Кухня", json!(null)).await;
    let teapots = admin.category("Чайники", kitchen["id"].clone()).await;
    let empty = admin.category("Пусто", json!(null)).await;
    let add_one = |number: usize| {
        let category = if number.is_multiple_of(3) { &kitchen } else { &teapots };
        let new = json!({"name": format!("№ {number}"), "price": number, "quantity": number, "category_id": category["id"]});
        let admin = &admin;
        async move { add(admin, PRODUCT, new).await.expect(201) }
    };
    let mut products = join_all((0..20).map(add_one)).await;
    for product in &products {
        let [id, name, price] = [&product["id"], &product["name"], &product["price"]];
        let category = &product["category_id"];
        assert_eq!(
            product,
            &json!({"id": id, "name": name, "price": price, "storage_quantity": price, "category_id": category})
        );
    }
    products.sort_by_key(|product| product["id"].as_i64());
    assert_eq!(anna.get(Node::Catalog, PRODUCTS).await.expect(200), json!(products));
    for category in [&kitchen, &teapots, &empty] {
        let path = format!("/api/v1/products_with_category?id={}", category["id"]);
        let own: Vec<_> = products.iter().filter(|p| p["category_id"] == category["id"]).collect();
        assert_eq!(anna.get(Node::Catalog, &path).await.expect(200), json!(own));
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
