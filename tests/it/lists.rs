//! Lists: by pages or whole, ready-made until something changes, and read by indexes.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, LINK};
use serde_json::{Value, json};
use shop_supervisor::Node;
use sqlx::{Connection, PgConnection, Row};

use crate::shop::{Answer, Client, TestShop, eventually, same};

const PRODUCTS: &str = "/api/v1/products";
const CATEGORIES: &str = "/api/v1/categories";
const USERS: &str = "/api/v1/users";

/// Fills the catalog with so many products, in a tree of categories, past the shop.
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

/// Where the next page is.
fn next(page: &Answer) -> Option<String> {
    let link = page.headers.get(LINK)?.to_str().unwrap();
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(next.expect("a link to the next page").to_owned())
}

/// All pages of a list, one after the other.
async fn pages(who: &Client, node: Node, first: &str, limit: usize) -> Vec<Value> {
    let and = if first.contains('?') { '&' } else { '?' };
    let mut path = Some(format!("{first}{and}limit={limit}"));
    let mut all = vec![];
    while let Some(page) = path {
        let page = who.get(node, &page).await;
        path = next(&page);
        let page = page.expect(200);
        let things = page.as_array().unwrap();
        assert!(things.len() == limit || (path.is_none() && things.len() < limit), "{page}");
        all.extend_from_slice(things);
    }
    all
}

#[tokio::test]
async fn the_pages_of_a_list_are_the_list_whatever_their_length() {
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
            let whole = admin.get(node, list).await.expect(200);
            whole.as_array().filter(|all| !all.is_empty()).cloned().ok_or("it is empty".to_owned())
        })
        .await;
        for limit in [1, 2, 3, 5, 7, 13, whole.len() - 1, whole.len(), whole.len() + 1, 1000] {
            assert_eq!(pages(&admin, node, list, limit.max(1)).await, whole, "{list} by {limit}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn a_limit_or_cursor_that_cannot_be_is_said_to_be_so() {
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
    // Behind the last there is nothing, and nothing follows it.
    let behind = admin.get(Node::Catalog, &format!("{PRODUCTS}?limit=5&cursor={}", i64::MAX)).await;
    assert_eq!((next(&behind), behind.expect(200)), (None, json!([])));
    shop.close().await;
}

#[tokio::test]
async fn a_long_list_comes_whole() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for products in [1, 1_000, 1_001, 2_000, 12_345] {
        let mut database = shop.settings.database(Node::Catalog).await;
        let empty = "truncate products, categories restart identity";
        sqlx::raw_sql(empty).execute(&mut database).await.unwrap();
        fill(&shop, products).await;
        eventually(async || {
            let whole = admin.get(Node::Catalog, PRODUCTS).await.expect(200);
            let ids: Vec<_> =
                whole.as_array().unwrap().iter().map(|it| it["id"].as_i64()).collect();
            same(ids, (1..=products).map(Some).collect())
        })
        .await;
    }
    // From the middle on, too.
    let rest = admin.get(Node::Catalog, &format!("{PRODUCTS}?cursor=1000")).await.expect(200);
    assert_eq!(rest.as_array().unwrap().len(), 11_345);
    assert_eq!(rest[0]["id"], 1001);
    shop.close().await;
}

#[tokio::test]
async fn a_list_that_has_not_changed_is_not_sent_again() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let category = admin.category("Чайники", json!(null)).await;
    let of_category = format!("/api/v1/products_with_category?id={}", category["id"]);
    for number in 1..=30 {
        admin.product(number, 10).await;
    }
    let asked = async |path: &str, has: &str| {
        let request = admin.request(Method::GET, Node::Catalog, path);
        Answer::of(request.header(IF_NONE_MATCH, has)).await
    };
    for list in [PRODUCTS, CATEGORIES, &of_category, "/api/v1/products?limit=3"] {
        let tag = eventually(async || {
            // Once all replicas have heard of the last change.
            let tags = [admin.get(Node::Catalog, list).await, admin.get(Node::Catalog, list).await];
            let [one, other] = tags.map(|answer| answer.header(ETAG.as_str()).to_owned());
            if one == other { Ok(one) } else { Err("the replicas differ".to_owned()) }
        })
        .await;
        for has in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let unchanged = asked(list, &has).await;
            assert_eq!((unchanged.status.as_u16(), unchanged.text.as_str()), (304, ""), "{has}");
            assert_eq!(unchanged.header(ETAG.as_str()), tag);
        }
        assert_eq!(asked(list, "\"other\"").await.status, 200);
    }
    let tag = admin.get(Node::Catalog, PRODUCTS).await.header(ETAG.as_str()).to_owned();
    admin.product(31, 10).await;
    eventually(async || same(asked(PRODUCTS, &tag).await.status.as_u16(), 200)).await;
    shop.close().await;
}

#[tokio::test]
async fn a_list_is_compressed_for_who_takes_it() {
    let shop = TestShop::start().await;
    fill(&shop, 500).await;
    let admin = shop.admin().await;
    let whole = eventually(async || {
        let whole = admin.get(Node::Catalog, PRODUCTS).await.expect(200);
        if whole.as_array().unwrap().len() == 500 { Ok(whole) } else { Err("not yet".to_owned()) }
    })
    .await;
    let ask = |codings: &'static str| {
        admin.request(Method::GET, Node::Catalog, PRODUCTS).header(ACCEPT_ENCODING, codings)
    };
    for codings in ["gzip", "br, GZIP;q=0.5", "deflate , gzip ; q=1.0"] {
        let answer = ask(codings).send().await.unwrap();
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip", "{codings}");
        let tag = answer.headers()[ETAG].clone();
        let sent = answer.bytes().await.unwrap();
        let mut text = String::new();
        GzDecoder::new(&sent[..]).read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), whole);
        assert!(sent.len() * 3 < text.len(), "{} of {}", sent.len(), text.len());
        let again = ask(codings).header(IF_NONE_MATCH, tag).send().await.unwrap();
        assert_eq!(again.status(), 304);
    }
    for codings in ["", "br", "gzip;q=0", "gzip; q=0.0, br", "identity"] {
        let answer = ask(codings).send().await.unwrap();
        assert!(!answer.headers().contains_key(CONTENT_ENCODING), "{codings}");
        assert_eq!(answer.json::<Value>().await.unwrap(), whole);
    }
    shop.close().await;
}

#[tokio::test]
async fn what_somebody_changed_somebody_sees() {
    let shop = TestShop::over(crate::shop::Over::RabbitMq).await;
    let admin = shop.admin().await;
    // The lists are kept ready all the time.
    let kept =
        async || admin.get(Node::Catalog, PRODUCTS).await.expect(200).as_array().unwrap().len();
    for number in 1..=20 {
        kept().await;
        let product = admin.product(number, 10).await;
        eventually(async || same(kept().await, number as usize)).await;
        admin.order(&[(&product, 1)]).await.expect(201);
        eventually(async || {
            let products = admin.get(Node::Catalog, PRODUCTS).await.expect(200);
            same(products[number as usize - 1]["storage_quantity"].clone(), json!(9))
        })
        .await;
    }
    shop.close().await;
}

/// The lists of the sources, by their names there: `const LIST…: &str = "…"`.
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

/// How the server would read a list whose values it does not know; nothing where it does not have the tables.
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
async fn every_list_is_read_by_an_index_and_never_sorted() {
    let shop = TestShop::start().await;
    fill(&shop, 20_000).await;
    let admin = shop.admin().await; // every table is there
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
        let plan =
            plans.first().unwrap_or_else(|| panic!("{name} cannot be read:\n{sql}")).to_string();
        assert!(plan.contains("Index"), "{name}: {plan}");
        for slow in ["Seq Scan", "\"Sort\""] {
            assert!(!plan.contains(slow), "{name} needs a {slow}: {plan}");
        }
    }
    drop(admin);
    shop.close().await;
}
