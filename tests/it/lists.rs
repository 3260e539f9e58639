//! Lists: paged or whole, cached until something changes, and read by indexes.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_NONE_MATCH};
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::api::Product;
use shop_tests::{BrokerKind, Client, Response, TestShop, equal, eventually};
use sqlx::{Connection, PgConnection, Row};

const PRODUCTS: &str = "/api/v1/products";
const CATEGORIES: &str = "/api/v1/categories";
const USERS: &str = "/api/v1/users";

/// Inserts a number of products in a tree of categories into the catalog's database.
async fn fill(shop: &TestShop, products: i64) {
    let mut database = shop.settings.database(Node::Catalog).await;
    let fill = format!(
        "insert into categories (name, parent_id, level)
             select 'category ' || i, nullif(i / 3, 0), i % 4 from generate_series(1, 40) as i;
         insert into products (name, price, storage_quantity, category_id)
             select 'product ' || i, i, i, 1 + i % 7 from generate_series(1, {products}) as i;
         analyze"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut database).await.unwrap();
}

/// The rows of all pages of a list.
async fn pages(client: &Client, node: Node, first: &str, limit: usize) -> Vec<Value> {
    let separator = if first.contains('?') { '&' } else { '?' };
    let mut path = Some(format!("{first}{separator}limit={limit}"));
    let mut all = vec![];
    while let Some(page) = path {
        let page = client.get(node, &page).await;
        path = page.next_page();
        let rows: Vec<Value> = page.read(200);
        let is_last = path.is_none();
        assert!(rows.len() == limit || (is_last && rows.len() < limit), "{}", page.text);
        all.extend(rows);
    }
    all
}

#[tokio::test]
async fn the_pages_of_a_list_add_up_to_the_list_for_every_limit() {
    let shop = TestShop::start().await;
    fill(&shop, 97).await;
    let admin = shop.admin().await;
    for name in ["anna", "boris", "clara", "dmitri"] {
        shop.user(name).await;
    }
    let of_category = "/api/v1/products_with_category?id=3";
    for (node, list) in [
        (Node::Catalog, PRODUCTS),
        (Node::Catalog, CATEGORIES),
        (Node::Catalog, of_category),
        (Node::Auth, USERS),
    ] {
        let whole = eventually(async || {
            let whole: Vec<Value> = admin.get(node, list).await.read(200);
            if whole.is_empty() { Err("it is empty".to_owned()) } else { Ok(whole) }
        })
        .await;
        for limit in [1, 2, 3, 5, 7, 13, whole.len() - 1, whole.len(), whole.len() + 1, 1000] {
            assert_eq!(pages(&admin, node, list, limit.max(1)).await, whole, "{list} by {limit}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn an_invalid_limit_or_cursor_is_rejected() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for (node, list) in
        [(Node::Catalog, PRODUCTS), (Node::Catalog, CATEGORIES), (Node::Auth, USERS)]
    {
        for wrong in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1.5"] {
            let refused = admin.get(node, &format!("{list}?{wrong}")).await;
            assert!(refused.text.contains("query value"), "{}", refused.text);
            refused.expect(400);
        }
        for wrong in ["x", "%00", "1~", "~1", "99999999999999999999", "-", "1.5"] {
            let refused = admin.get(node, &format!("{list}?limit=5&cursor={wrong}")).await;
            assert!(refused.text.contains("cursor"), "{}", refused.text);
            refused.expect(400);
        }
    }
    // The page after the last row is empty and has no successor.
    let page = admin.get(Node::Catalog, &format!("{PRODUCTS}?limit=5&cursor={}", i64::MAX)).await;
    assert_eq!((page.next_page(), page.expect(200)), (None, json!([])));
    shop.close().await;
}

#[tokio::test]
async fn a_long_list_is_returned_completely() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for products in [1, 1_000, 1_001, 2_000, 12_345] {
        let mut database = shop.settings.database(Node::Catalog).await;
        let empty = "truncate products, categories restart identity";
        sqlx::raw_sql(empty).execute(&mut database).await.unwrap();
        fill(&shop, products).await;
        eventually(async || {
            let whole: Vec<Product> = admin.get(Node::Catalog, PRODUCTS).await.read(200);
            let ids: Vec<_> = whole.iter().map(|product| product.id).collect();
            equal(ids, (1..=products).collect())
        })
        .await;
    }
    let rest = admin.get(Node::Catalog, &format!("{PRODUCTS}?cursor=1000")).await;
    let rest: Vec<Product> = rest.read(200);
    assert_eq!((rest.len(), rest[0].id), (11_345, 1001));
    shop.close().await;
}

#[tokio::test]
async fn an_unchanged_list_is_not_sent_again() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", None).await;
    let of_category = format!("/api/v1/products_with_category?id={}", category.id);
    for number in 1..=30 {
        admin.product(number, 10).await;
    }
    let get_unless = async |path: &str, tag: &str| {
        let request = admin.request(Method::GET, Node::Catalog, path);
        Response::of(request.header(IF_NONE_MATCH, tag)).await
    };
    for list in [PRODUCTS, CATEGORIES, &of_category, "/api/v1/products?limit=3"] {
        let tag = eventually(async || {
            // When all replicas have observed the last change.
            let tags = [admin.get(Node::Catalog, list).await, admin.get(Node::Catalog, list).await];
            let [one, other] = tags.map(|response| response.header(ETAG.as_str()).to_owned());
            if one == other { Ok(one) } else { Err("the replicas differ".to_owned()) }
        })
        .await;
        for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let unchanged = get_unless(list, &known).await;
            assert_eq!((unchanged.status.as_u16(), unchanged.text.as_str()), (304, ""), "{known}");
            assert_eq!(unchanged.header(ETAG.as_str()), tag);
        }
        assert_eq!(get_unless(list, "\"other\"").await.status, 200);
    }
    let tag = admin.get(Node::Catalog, PRODUCTS).await.header(ETAG.as_str()).to_owned();
    admin.product(31, 10).await;
    eventually(async || equal(get_unless(PRODUCTS, &tag).await.status.as_u16(), 200)).await;
    shop.close().await;
}

#[tokio::test]
async fn a_list_is_compressed_if_the_client_accepts_gzip() {
    let shop = TestShop::start().await;
    fill(&shop, 500).await;
    let admin = shop.admin().await;
    let whole = eventually(async || {
        let whole: Vec<Product> = admin.get(Node::Catalog, PRODUCTS).await.read(200);
        equal(whole.len(), 500)?;
        Ok(whole)
    })
    .await;
    let ask = |codings: &'static str| {
        admin.request(Method::GET, Node::Catalog, PRODUCTS).header(ACCEPT_ENCODING, codings)
    };
    for codings in ["gzip", "br, GZIP;q=0.5", "deflate , gzip ; q=1.0"] {
        let response = ask(codings).send().await.unwrap();
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip", "{codings}");
        let tag = response.headers()[ETAG].clone();
        let sent = response.bytes().await.unwrap();
        let mut text = String::new();
        GzDecoder::new(&sent[..]).read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Product>>(&text).unwrap(), whole);
        assert!(sent.len() * 3 < text.len(), "{} of {}", sent.len(), text.len());
        let again = ask(codings).header(IF_NONE_MATCH, tag).send().await.unwrap();
        assert_eq!(again.status(), 304);
    }
    for codings in ["", "br", "gzip;q=0", "gzip; q=0.0, br", "identity"] {
        let response = ask(codings).send().await.unwrap();
        assert!(!response.headers().contains_key(CONTENT_ENCODING), "{codings}");
        assert_eq!(response.json::<Vec<Product>>().await.unwrap(), whole);
    }
    shop.close().await;
}

#[tokio::test]
async fn a_client_sees_its_changes_in_lists() {
    let shop = TestShop::start_on(BrokerKind::RabbitMq).await;
    let admin = shop.admin().await;
    let products = async || admin.get(Node::Catalog, PRODUCTS).await.read::<Vec<Product>>(200);
    for number in 1..=20 {
        products().await; // the list is cached from now on
        let product = admin.product(number, 10).await;
        eventually(async || equal(products().await.len(), number as usize)).await;
        admin.order(&[(&product, 1)]).await.expect(201);
        admin.until_stock(&product, 9).await;
    }
    shop.close().await;
}

/// Names and SQL of the list queries in the sources: `const LIST…: &str = "…"`.
fn lists() -> Vec<(String, String)> {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../persistence/src");
    let mut lists = vec![];
    for file in std::fs::read_dir(sources).unwrap().flatten() {
        if !file.file_type().unwrap().is_file() {
            continue;
        }
        let source = std::fs::read_to_string(file.path()).unwrap();
        for found in source.split("\nconst LIST").skip(1) {
            let (name, rest) = found.split_once(": &str = \"").expect("a constant");
            let sql = rest.split_once("\";").expect("its end").0;
            let name = format!("{}: LIST{name}", file.file_name().to_string_lossy());
            lists.push((name, sql.replace("\\\"", "\"")));
        }
    }
    lists
}

/// The generic plan of a list query, or `None` if the database does not have its tables.
async fn plan(database: &mut PgConnection, sql: &str) -> Option<Value> {
    let mut tx = database.begin().await.unwrap();
    let prepare = sqlx::AssertSqlSafe(format!("prepare list as {sql}"));
    sqlx::raw_sql(prepare).execute(&mut *tx).await.ok()?;
    let generic = "set local plan_cache_mode = force_generic_plan";
    sqlx::raw_sql(generic).execute(&mut *tx).await.unwrap();
    let values = (1..10).filter(|number| sql.contains(&format!("${number}"))).map(|_| "null");
    let values = values.collect::<Vec<_>>().join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let explain = format!("explain (format json) execute list{values}");
    let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_one(&mut *tx).await.unwrap();
    sqlx::raw_sql("deallocate list").execute(&mut *tx).await.unwrap();
    Some(plan.get::<Value, _>(0))
}

#[tokio::test]
async fn every_list_query_uses_an_index_and_no_sort() {
    let shop = TestShop::start().await;
    fill(&shop, 20_000).await;
    let filled = [
        (Node::Auth, "insert into users (id, username, username_key, email, email_key, password_hash, role)
             select gen_random_uuid(), i, i, i, i, '', case when i % 5000 = 0 then 'ADMIN' else 'USER' end
             from generate_series(1, 20000) as i; analyze"),
        (Node::Catalog, "insert into categories (name, level) select '', i % 9 from generate_series(1, 20000) as i;
             insert into audit_log (user_id, username, action, actor, reason, request_id)
             select gen_random_uuid(), '', '', '', '', '' from generate_series(1, 20000);
             insert into dead_letters
             select gen_random_uuid(), 'queue', '', '', 1, '', now() + i * interval '1 second', 1, '{}', '{}', ''
             from generate_series(1, 20000) as i; analyze"),
    ];
    for (node, sql) in filled {
        let mut database = shop.settings.database(node).await;
        sqlx::raw_sql(sql).execute(&mut database).await.unwrap();
    }
    let mut databases =
        [shop.settings.database(Node::Catalog).await, shop.settings.database(Node::Auth).await];
    let lists = lists();
    assert!(lists.len() >= 6, "{lists:?}");
    for (name, sql) in lists {
        let mut plans = vec![];
        for database in &mut databases {
            plans.extend(plan(database, &sql).await);
        }
        let plan = plans.first().unwrap_or_else(|| panic!("{name} fails:\n{sql}")).to_string();
        assert!(plan.contains("Index"), "{name}: {plan}");
        for slow in ["Seq Scan", "\"Sort\""] {
            assert!(!plan.contains(slow), "{name} uses {slow}: {plan}");
        }
    }
    shop.close().await;
}
