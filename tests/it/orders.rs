//! Orders: placing, reading, changing an item, and the stock that is never sold twice.

use std::collections::HashSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::shop::{Answer, Client, TestShop, eventually, same};

async fn place(client: &Client, body: Value) -> Answer {
    client.post(Node::Order, "/order", body).await
}

async fn read(client: &Client, order: &Value) -> Value {
    client.get(Node::Order, &format!("/order/{}", order["id"])).await.expect(200)
}

async fn set_quantity(client: &Client, order: &Value, item: usize, quantity: i64) -> Answer {
    let change = json!({"order_item_id": order["items"][item]["id"], "quantity": quantity});
    client.put(Node::Order, &format!("/update_order/{}", order["id"]), change).await
}

/// What the order node itself has left of a product.
async fn left_to_sell(database: &mut PgConnection, product: &Value) -> i64 {
    let left = sqlx::query_scalar("select quantity from products where id = $1");
    left.bind(product["id"].as_i64()).fetch_one(database).await.expect("a product")
}

/// Whatever happened: on both nodes the ledger's sum is what is left, nothing is below zero, what is left and what was
/// ordered is what was stocked, and the totals are the sums of the items. Returns what is left.
async fn balance(shop: &TestShop, admin: &Client, product: &Value) -> i64 {
    const LEDGER: &str =
        "select coalesce(sum(delta), 0)::bigint from stock_movements where product_id = $1";
    const ORDERED: &str =
        "select coalesce(sum(product_quantity), 0)::bigint from order_items where product_id = $1";
    const WRONG_TOTALS: &str = "
        select count(*) from orders o where (total_quantity, total_price) is distinct from
            (select (sum(product_quantity)::bigint, sum(product_quantity * product_price)::bigint)
             from order_items where order_id = o.id)";
    let id = product["id"].as_i64().expect("a product");
    let mut order = shop.settings.database(Node::Order).await;
    let mut catalog = shop.settings.database(Node::Catalog).await;
    let left = left_to_sell(&mut order, product).await;
    eventually(async || same(admin.left(product).await, left)).await;
    for database in [&mut order, &mut catalog] {
        let ledger: i64 =
            sqlx::query_scalar(LEDGER).bind(id).fetch_one(database).await.expect("a ledger");
        assert_eq!(ledger, left, "the ledger of {product}");
    }
    let ordered: i64 =
        sqlx::query_scalar(ORDERED).bind(id).fetch_one(&mut order).await.expect("a sum");
    let wrong: i64 = sqlx::query_scalar(WRONG_TOTALS).fetch_one(&mut order).await.expect("a count");
    assert_eq!((Some(left + ordered), wrong), (product["storage_quantity"].as_i64(), 0));
    assert!(left >= 0, "{left} left of {product}");
    left
}

#[tokio::test]
async fn an_order_shows_what_was_bought_by_whom_for_how_much() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(250, 100).await);

    let order = anna.order(&[(&cup, 6), (&teapot, 1), (&cup, 2)]).await.expect(201);
    let item = |number: usize, product: &Value, quantity: i64| {
        json!({
            "id": order["items"][number]["id"], "order_id": order["id"],
            "product_id": product["id"], "product_quantity": quantity,
            "product": {"id": product["id"], "name": product["name"], "price": product["price"]},
        })
    };
    let mut expected = json!({
        "id": order["id"], "user_id": anna.user["id"], "total_quantity": 9, "total_price": 8 * 250 + 1990,
        "status": "created", "created_at": order["created_at"],
        "items": [item(0, &cup, 8), item(1, &teapot, 1)],
    });
    assert_eq!(order, expected);
    assert!(order["id"].is_i64() && order["items"][0]["id"].is_i64(), "{order}");
    assert_ne!(order["items"][0]["id"], order["items"][1]["id"]);
    let placed_at = order["created_at"].as_str().expect("a time");
    assert!(
        placed_at.contains('T') && placed_at.ends_with('Z'),
        "not RFC 3339 in UTC: {placed_at}"
    );

    expected["user"] =
        json!({"id": anna.user["id"], "username": "Анна", "email": anna.user["email"]});
    assert_eq!(read(&anna, &order).await, expected);
    assert_eq!(read(&admin, &order).await, expected);
    assert_eq!(balance(&shop, &admin, &cup).await, 92);
    assert_eq!(balance(&shop, &admin, &teapot).await, 9);
    shop.close().await;
}

#[tokio::test]
async fn an_order_is_its_owners_and_the_administrators() {
    let shop = TestShop::start().await;
    let (nobody, admin) = (shop.nobody(), shop.admin().await);
    let (owner, stranger) = (shop.user("owner").await, shop.user("stranger").await);
    let teapot = admin.product(1990, 100).await;
    let order = owner.order(&[(&teapot, 1)]).await.expect(201);
    let of_owner = json!({"user_id": owner.user["id"], "items": [{"product_id": teapot["id"], "quantity": 1}]});
    let change = json!({"order_item_id": order["items"][0]["id"], "quantity": 2});
    let (one, update) =
        (format!("/order/{}", order["id"]), format!("/update_order/{}", order["id"]));
    let (post, put) = (Method::POST, Method::PUT);
    for (method, path, body, statuses) in [
        (Method::GET, one.as_str(), None, [401, 403, 200, 200]),
        (Method::GET, "/order/987654321", None, [401, 404, 404, 404]),
        (put.clone(), &update, Some(change.clone()), [401, 403, 200, 200]),
        (put, "/update_order/987654321", Some(change), [401, 404, 404, 404]),
        (post, "/order", Some(of_owner), [401, 403, 201, 201]),
    ] {
        for (caller, status) in [&nobody, &stranger, &owner, &admin].into_iter().zip(statuses) {
            let answer = caller.send(method.clone(), Node::Order, path, body.clone()).await;
            let answered = answer.expect(status);
            if status == 201 {
                assert_eq!(answered["user_id"], owner.user["id"]);
            }
        }
    }
    for id in ["x", "1.5", "0x1", "99999999999999999999999", "%00", "%FF", "1%20"] {
        owner.get(Node::Order, &format!("/order/{id}")).await.expect(400);
        owner.put(Node::Order, &format!("/update_order/{id}"), json!({})).await.expect(400);
    }
    for id in ["0", "-1", "9223372036854775807"] {
        owner.get(Node::Order, &format!("/order/{id}")).await.expect(404);
    }
    assert_eq!(balance(&shop, &admin, &teapot).await, 100 - 2 - 2);
    shop.close().await;
}

#[tokio::test]
async fn every_rule_that_an_order_breaks_is_named_at_once() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 1000).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    let item = |quantity: Value| json!({"product_id": teapot["id"], "quantity": quantity});
    let with_items = |items: Value| json!({"user_id": anna.user["id"], "items": items});
    let too_many: Vec<_> = (0..101).map(|_| item(json!(1))).collect();

    let quantities =
        [json!(0), json!(-1), json!(1_000_001), json!(1.5), json!("5"), json!(null), json!(true)];
    let numbers = ["9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e300"];
    let numbers = numbers.map(|number| number.parse::<Value>().expect("a number"));
    let mut cases: Vec<_> = quantities
        .into_iter()
        .chain(numbers)
        .map(|quantity| {
            (with_items(json!([item(json!(1)), item(quantity)])), vec!["items[1].quantity"])
        })
        .collect();
    cases.extend([
        (with_items(json!([])), vec!["items"]),
        (with_items(json!(too_many)), vec!["items"]),
        (with_items(json!(null)), vec!["items"]),
        (with_items(item(json!(1))), vec!["items"]),
        (with_items(json!([7])), vec!["items[0]"]),
        (with_items(json!([{}])), vec!["items[0].product_id", "items[0].quantity"]),
        (with_items(json!([{"product_id": "1", "quantity": 1}])), vec!["items[0].product_id"]),
        (with_items(json!([{"product_id": 1.5, "quantity": 1}])), vec!["items[0].product_id"]),
        (with_items(json!([item(json!(1_000_000)), item(json!(1))])), vec!["items[1].quantity"]),
        (json!({"user_id": 7, "items": []}), vec!["items", "user_id"]),
        (json!({"user_id": "anna", "items": [item(json!(0)), {"product_id": null, "quantity": "x"}]}),
            vec!["items[0].quantity", "items[1].product_id", "items[1].quantity", "user_id"]),
        (json!({}), vec!["items", "user_id"]),
        (json!([]), vec!["body"]),
        (json!("order"), vec!["body"]),
    ]);
    for (body, fields) in cases {
        let answer = place(&anna, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    assert_eq!(balance(&shop, &admin, &teapot).await, 999);
    shop.close().await;
}

#[tokio::test]
async fn an_order_has_up_to_100_items_of_up_to_a_million_pieces() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1, 2_000_000).await;
    anna.order(&[(&teapot, 1_000_000)]).await.expect(201);
    let category =
        json!({"name": "cup", "price": 1, "quantity": 1, "category_id": teapot["category_id"]});
    let cups = (0..99).map(|_| admin.post(Node::Catalog, "/api/v1/product", category.clone()));
    let cups: Vec<_> = join_all(cups).await.iter().map(|answer| answer.expect(201)).collect();
    let mut items: Vec<_> = cups.iter().map(|cup| (cup, 1)).collect();
    items.push((&teapot, 1));
    let order = anna.order(&items).await.expect(201);
    assert_eq!(
        (&order["total_quantity"], order["items"].as_array().map(Vec::len)),
        (&json!(100), Some(100))
    );
    let order = anna.order(&[(&teapot, 10_000); 100][..]).await;
    assert_eq!(order.expect(409)["status"], 409, "999,999 are left");
    let order = anna.order(&[(&teapot, 9_999); 100][..]).await.expect(201);
    assert_eq!(order["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(balance(&shop, &admin, &teapot).await, 99);
    shop.close().await;
}

#[tokio::test]
async fn an_order_names_users_and_products_that_exist() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let gone = shop.user("gone").await;
    let teapot = admin.product(1990, 10).await;
    gone.order(&[(&teapot, 1)]).await.expect(201);
    let order = |user: &Value, products: &[Value]| {
        let item = |product: &Value| json!({"product_id": product, "quantity": 1});
        json!({"user_id": user, "items": products.iter().map(item).collect::<Vec<_>>()})
    };
    let (known, unknown) = (&teapot["id"], json!(987_654_321));
    let stranger = json!(Uuid::new_v4());
    for (caller, body, fields) in [
        (
            &anna,
            order(&anna.user["id"], &[known.clone(), unknown.clone()]),
            &["items[1].product_id"][..],
        ),
        (
            &anna,
            order(&anna.user["id"], &[json!(0), json!(-1), known.clone(), json!(0)]),
            &["items[0].product_id", "items[1].product_id"],
        ),
        (&anna, order(&anna.user["id"], &[json!(i64::MAX)]), &["items[0].product_id"]),
        (&admin, order(&stranger, std::slice::from_ref(known)), &["user_id"]),
        (&admin, order(&stranger, &[unknown]), &["items[0].product_id", "user_id"]),
    ] {
        let answer = place(caller, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", gone.id())).await.expect(200);
    let of_gone = order(&gone.user["id"], std::slice::from_ref(known));
    let refused = eventually(async || {
        let answer = place(&admin, of_gone.clone()).await;
        if answer.status == 201 { Err("not heard yet".to_owned()) } else { Ok(answer) }
    });
    assert_eq!(refused.await.broken_fields(), ["user_id"]);
    balance(&shop, &admin, &teapot).await;
    shop.close().await;
}

#[tokio::test]
async fn all_of_an_order_is_placed_or_none_of_it() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (many, few) = (admin.product(100, 50).await, admin.product(100, 2).await);
    let none = admin.product(100, 0).await;
    for items in [
        &[(&many, 1), (&few, 3)][..],
        &[(&few, 3), (&many, 1)],
        &[(&few, 2), (&many, 50), (&few, 1)],
        &[(&many, 51)],
        &[(&many, 1), (&none, 1)],
    ] {
        anna.order(items).await.expect(409);
    }
    let items = json!([{"product_id": many["id"], "quantity": 1}, {"product_id": 987_654_321, "quantity": 1}]);
    place(&anna, json!({"user_id": anna.id(), "items": items})).await.expect(422);
    for product in [&many, &few, &none] {
        assert_eq!(
            Some(balance(&shop, &admin, product).await),
            product["storage_quantity"].as_i64()
        );
    }
    anna.order(&[(&many, 50), (&few, 2)]).await.expect(201);
    anna.order(&[(&few, 1)]).await.expect(409);
    assert_eq!(balance(&shop, &admin, &many).await + balance(&shop, &admin, &few).await, 0);
    shop.close().await;
}

#[tokio::test]
async fn an_items_quantity_moves_the_stock_and_the_totals() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(250, 100).await);
    let order = anna.order(&[(&teapot, 3), (&cup, 2)]).await.expect(201);
    let mut item = order["items"][0].clone();
    for (quantity, left) in [(5, 5), (5, 5), (1, 9), (10, 0), (2, 8)] {
        item["product_quantity"] = json!(quantity);
        assert_eq!(set_quantity(&anna, &order, 0, quantity).await.expect(200), item);
        let now = read(&anna, &order).await;
        let totals = (&now["total_quantity"], &now["total_price"]);
        assert_eq!(totals, (&json!(quantity + 2), &json!(1990 * quantity + 500)));
        assert_eq!((&now["items"][0], &now["items"][1]), (&item, &order["items"][1]));
        assert_eq!(balance(&shop, &admin, &teapot).await, left);
    }
    set_quantity(&anna, &order, 0, 11).await.expect(409);
    set_quantity(&anna, &order, 0, 1_000_000).await.expect(409);

    let other = anna.order(&[(&teapot, 1)]).await.expect(201);
    let foreign = json!({"order_item_id": other["items"][0]["id"], "quantity": 2});
    let path = format!("/update_order/{}", order["id"]);
    anna.put(Node::Order, &path, foreign).await.expect(404);
    anna.put(Node::Order, &path, json!({"order_item_id": 987_654_321, "quantity": 2}))
        .await
        .expect(404);
    let both = ["order_item_id", "quantity"];
    for (body, fields) in [
        (json!({}), &both[..]),
        (json!({"order_item_id": "x", "quantity": 0}), &both),
        (json!({"order_item_id": 1.5, "quantity": 1_000_001}), &both),
        (json!({"order_item_id": item["id"], "quantity": -1}), &both[1..]),
        (json!({"order_item_id": item["id"], "quantity": "2"}), &both[1..]),
        (json!({"order_item_id": item["id"], "quantity": null}), &both[1..]),
        (json!([]), &["body"]),
    ] {
        let answer = anna.put(Node::Order, &path, body).await;
        assert_eq!(answer.broken_fields(), fields, "{}", answer.call);
    }
    assert_eq!(read(&anna, &order).await["total_quantity"], 4, "what is refused changes nothing");
    assert_eq!(balance(&shop, &admin, &teapot).await, 7);
    shop.close().await;
}

#[tokio::test]
async fn a_refused_change_holds_nobody_up() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let buyers =
        join_all(["vera", "olga", "nina", "lena", "zoya", "yana"].map(|name| shop.user(name)))
            .await;
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 1)]).await.expect(201);
    set_quantity(&anna, &order, 0, 11).await.expect(409);
    let orders = buyers.iter().map(|buyer| async { buyer.order(&[(&teapot, 1)]).await });
    join_all(orders).await.iter().for_each(|answer| drop(answer.expect(201)));
    assert_eq!(balance(&shop, &admin, &teapot).await, 3);
    shop.close().await;
}

#[tokio::test]
async fn two_hundred_who_want_the_last_37_pieces_get_37() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let buyers = join_all((0..5).map(|number| {
        let shop = &shop;
        async move { shop.user(&format!("buyer{number}")).await }
    }));
    let buyers = buyers.await;
    let teapot = admin.product(1990, 37).await;
    let orders =
        buyers.iter().cycle().take(200).map(|buyer| async { buyer.order(&[(&teapot, 1)]).await });
    let answers = join_all(orders).await;
    let (placed, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 201);
    refused.iter().for_each(|answer| drop(answer.expect(409)));
    assert_eq!(placed.len(), 37);
    let ids: HashSet<_> = placed.iter().map(|answer| answer.json()["id"].as_i64()).collect();
    assert_eq!(ids.len(), 37, "every order has a number of its own");
    assert_eq!(balance(&shop, &admin, &teapot).await, 0);
    shop.close().await;
}

#[tokio::test]
async fn parallel_changes_of_one_item_leave_it_as_one_of_them_says() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(10, 100).await;
    let order = anna.order(&[(&teapot, 1)]).await.expect(201);
    let changes = (1..=40).map(|number| {
        set_quantity(if number % 2 == 0 { &admin } else { &anna }, &order, 0, number)
    });
    join_all(changes).await.iter().for_each(|answer| drop(answer.expect(200)));
    let now = read(&anna, &order).await;
    let quantity = now["items"][0]["product_quantity"].as_i64().expect("a number");
    assert!((1..=40).contains(&quantity), "{now}");
    assert_eq!(
        (&now["total_quantity"], &now["total_price"]),
        (&json!(quantity), &json!(10 * quantity))
    );
    assert_eq!(balance(&shop, &admin, &teapot).await, 100 - quantity);
    shop.close().await;
}

#[tokio::test]
async fn orders_and_changes_of_several_products_at_once_keep_the_balance() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let (anna, vera) = (shop.user("anna").await, shop.user("vera").await);
    let (teapot, cup) = (admin.product(1990, 60).await, admin.product(250, 60).await);
    let first = anna.order(&[(&teapot, 5), (&cup, 5)]).await.expect(201);
    let work = (0..60).map(|number: i64| {
        let (anna, vera, first, teapot, cup) = (&anna, &vera, &first, &teapot, &cup);
        async move {
            match number % 4 {
                0 => anna.order(&[(teapot, 2), (cup, 1)]).await,
                1 => vera.order(&[(cup, 2), (teapot, 1)]).await,
                2 => set_quantity(anna, first, 0, 1 + number % 9).await,
                _ => set_quantity(anna, first, 1, 9 - number % 9).await,
            }
        }
    });
    for answer in join_all(work).await {
        assert!([200, 201, 409].contains(&answer.status.as_u16()), "{answer:?}");
    }
    balance(&shop, &admin, &teapot).await;
    balance(&shop, &admin, &cup).await;
    shop.close().await;
}

#[tokio::test]
async fn an_order_costs_what_a_number_can_say() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let mut yachts = vec![];
    for _ in 0..10 {
        yachts.push(admin.product(1_000_000_000_000, 1_000_000_000).await);
    }
    let all: Vec<_> = yachts.iter().map(|yacht| (yacht, 1_000_000)).collect();
    assert_eq!(anna.order(&all).await.broken_fields(), ["items"]);
    let mut most = all[..9].to_vec();
    most.push((&yachts[9], 1));
    let order = anna.order(&most).await.expect(201);
    assert_eq!(order["total_price"], 9_000_001_000_000_000_000_i64);
    assert_eq!(set_quantity(&anna, &order, 9, 1_000_000).await.broken_fields(), ["quantity"]);
    assert_eq!(read(&anna, &order).await["total_price"], order["total_price"]);
    assert_eq!(balance(&shop, &admin, &yachts[9]).await, 999_999_999);
    shop.close().await;
}

#[tokio::test]
async fn a_bug_ends_in_503_and_the_next_request_works() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 1)]).await.expect(201);
    let buy =
        json!({"user_id": anna.user["id"], "items": [{"product_id": teapot["id"], "quantity": 2}]});
    let more = json!({"order_item_id": order["items"][0]["id"], "quantity": 2});
    let update = format!("/update_order/{}", order["id"]);
    let category = json!({"name": "Чайники"});
    for (node, table, method, path, body, status) in [
        (Node::Order, "order_items", Method::POST, "/order", buy, 201),
        (Node::Order, "outbox", Method::PUT, &update, more, 200),
        (Node::Catalog, "categories", Method::POST, "/api/v1/category", category, 201),
        (Node::Auth, "outbox", Method::PUT, "/api/v1/users/me", json!({"username": "Нюра"}), 200),
    ] {
        let mut database = shop.settings.database(node).await;
        let mut run = async |sql: String| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut database)
                .await
                .expect("it is renamed");
        };
        run(format!("alter table {table} rename to away")).await;
        let answer = admin_or(&admin, &anna, node)
            .send(method.clone(), node, path, Some(body.clone()))
            .await;
        run(format!("alter table away rename to {table}")).await;
        answer.expect(503);
        admin_or(&admin, &anna, node).send(method, node, path, Some(body)).await.expect(status);
    }
    assert_eq!(balance(&shop, &admin, &teapot).await, 10 - 2 - 2, "nothing is half done");
    shop.close().await;
}

/// Who makes a node's calls: the catalog's are the administrator's.
fn admin_or<'c>(admin: &'c Client, other: &'c Client, node: Node) -> &'c Client {
    if node == Node::Catalog { admin } else { other }
}
