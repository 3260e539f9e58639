//! Dead letters: seen, redriven and dropped by operators, on both brokers alike.

use std::collections::HashSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_messaging::Message;
use shop_supervisor::commands::dead_letters::{Command, run};
use shop_supervisor::{Node, Shop};
use uuid::Uuid;

use crate::events::{Stranger, message, order_for, product};
use crate::shop::{Client, Over, Settings, TestShop, eventually, same};

on_both_brokers! {
    a_dead_letter_shows_all_that_is_known_of_it
    only_an_administrator_sees_dead_letters
    what_could_not_be_applied_is_once_its_cause_is_gone
    what_ended_its_owner_is_applied_once_the_bug_is_mended
    a_dropped_dead_letter_is_gone
    a_long_list_comes_in_pages
    one_poisonous_message_does_not_slow_a_thousand_healthy_ones
    one_message_that_ends_its_owner_does_not_slow_a_thousand_healthy_ones
    while_the_database_is_away_nothing_becomes_a_dead_letter
    the_command_line_does_the_same_without_the_shop
}

/// The dead letters of a node, as soon as there are so many.
pub async fn dead_letters(admin: &Client, node: Node, count: usize) -> Vec<Value> {
    eventually(async || {
        let letters = admin.get(node, "/admin/dead-letters").await.expect(200);
        let letters = letters.as_array().unwrap().clone();
        same(letters.len(), count).map(|_| letters)
    })
    .await
}

fn path(letter: &Value) -> String {
    format!("/admin/dead-letters/{}", letter["id"].as_str().unwrap())
}

async fn redrive(admin: &Client, letter: &Value) -> crate::shop::Answer {
    let path = format!("{}/redrive", path(letter));
    admin.send(Method::POST, Node::Order, &path, None).await
}

async fn gauge(shop: &TestShop, node: Node, queue: &str) -> Option<f64> {
    let metrics = shop.nobody().get(node, "/metrics").await.text;
    let label = format!("queue=\"{queue}\"");
    let mut lines = metrics.lines().filter(|line| line.starts_with("shop_dead_letters{"));
    lines.find(|line| line.contains(&label))?.rsplit_once(' ')?.1.parse().ok()
}

/// The sum of a metric of a node, over all labels that have this text.
async fn sum(shop: &TestShop, node: Node, name: &str, text: &str) -> f64 {
    let metrics = shop.nobody().get(node, "/metrics").await.text;
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(text));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Product 1000001: of 5 pieces 4 are sold, when the news comes that only 2 were stocked. Returns the order.
async fn sell_too_many(admin: &Client, stranger: &mut Stranger) -> Value {
    stranger.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    let order = order_for(admin, admin.id(), 1_000_001, 4).await.expect(201);
    stranger.publish("product.created", 2, &product(1_000_001, 70, 2)).await;
    order
}

/// The operator's remedy: three pieces are given back.
async fn give_back(admin: &Client, order: &Value) {
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 1});
    admin.put(Node::Order, &format!("/update_order/{}", order["id"]), item).await.expect(200);
}

async fn a_dead_letter_shows_all_that_is_known_of_it(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    for (node, queue) in [(Node::Catalog, "stock.moved"), (Node::Order, "product.created")] {
        eventually(async || same(gauge(&shop, node, queue).await, Some(0.0))).await;
    }
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let broken = Message {
        traceparent: Some(traceparent.to_owned()),
        timestamp: Some(1_790_000_000),
        ..message("product.created", Some(7), "{\"имя\":\u{0}".as_bytes())
    };
    let id = broken.id.clone();
    stranger.post(broken.clone()).await;
    stranger.post(Message { id: None, body: b"\xff\xfe".into(), ..broken }).await;
    // What is behind it is applied.
    stranger.publish("product.created", 1, &product(1_000_002, 70, 4)).await;
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(201);

    let letters = dead_letters(&admin, Node::Order, 2).await;
    let letter = &letters[0];
    assert_eq!(letter["queue"], "product.created");
    assert_eq!(letter["event"], "product.created");
    assert_eq!(letter["message_id"], json!(id));
    assert_eq!((&letter["version"], &letter["tries"]), (&json!(7), &json!(1)));
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.starts_with("the body cannot be read"), "{reason}");
    assert_eq!(letter["payload"], "{\"имя\":\u{0}");
    assert!(letter.get("payload_base64").is_none(), "{letter}");
    assert_eq!(letter["headers"]["version"], 7);
    assert_eq!(letter["headers"]["traceparent"], traceparent);
    assert_eq!(letter["properties"]["message_id"], json!(id));
    assert_eq!(letter["properties"]["type"], "product.created");
    assert_eq!(letter["properties"]["timestamp"], "2026-09-21T14:13:20Z");
    let failed_at = letter["first_failed_at"].as_str().unwrap();
    let mut database = shop.settings.database(Node::Order).await;
    let young = "select $1::text::timestamptz between now() - interval '1 minute' and now()";
    let young: bool =
        sqlx::query_scalar(young).bind(failed_at).fetch_one(&mut database).await.unwrap();
    assert!(young && failed_at.ends_with('Z'), "{failed_at}");
    assert_eq!(&admin.get(Node::Order, &path(letter)).await.expect(200), letter);
    let other = &letters[1];
    assert_eq!((&other["payload"], &other["message_id"]), (&Value::Null, &Value::Null));
    assert_eq!(other["payload_base64"], "//4=");

    // It is this node's affair alone.
    for node in [Node::Auth, Node::Catalog] {
        assert_eq!(admin.get(node, "/admin/dead-letters").await.expect(200), json!([]));
        admin.get(node, &path(letter)).await.expect(404);
    }
    eventually(async || same(gauge(&shop, Node::Order, "product.created").await, Some(2.0))).await;
    eventually(async || same(gauge(&shop, Node::Order, "order.users").await, Some(0.0))).await;
    eventually(async || same(gauge(&shop, Node::Catalog, "catalog.users").await, Some(0.0))).await;
    // What two nodes hear is a dead letter of each.
    stranger.send("user_created", Some(1), b"{}").await;
    assert_eq!(dead_letters(&admin, Node::Catalog, 1).await[0]["queue"], "catalog.users");
    assert_eq!(dead_letters(&admin, Node::Order, 3).await[2]["queue"], "order.users");
    shop.close().await;
}

async fn only_an_administrator_sees_dead_letters(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    Stranger::beside(&shop).await.send("product.created", Some(1), b"{").await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    let one = path(&letter);
    for (method, path) in [
        (Method::GET, "/admin/dead-letters"),
        (Method::GET, &one),
        (Method::POST, &format!("{one}/redrive")),
        (Method::DELETE, &one),
    ] {
        for node in Node::ALL {
            shop.nobody().send(method.clone(), node, path, None).await.expect(401);
            anna.send(method.clone(), node, path, None).await.expect(403);
        }
    }
    assert_eq!(dead_letters(&admin, Node::Order, 1).await, [letter]);
    shop.close().await;
}

async fn what_could_not_be_applied_is_once_its_cause_is_gone(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    let order = sell_too_many(&admin, &mut stranger).await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    let reason = "the new stock is less than what is already sold";
    assert_eq!(letter["reason"], reason);

    assert_eq!(redrive(&admin, &letter).await.expect(409)["detail"], reason);
    let tried = admin.get(Node::Order, &path(&letter)).await.expect(200);
    assert_eq!((&tried["tries"], &tried["reason"]), (&json!(2), &json!(reason)));
    assert_eq!(tried["first_failed_at"], letter["first_failed_at"]);

    give_back(&admin, &order).await;
    assert_eq!(redrive(&admin, &letter).await.expect(200)["message"], "the message is applied");
    redrive(&admin, &letter).await.expect(404);
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    // Of two pieces one is sold.
    order_for(&admin, admin.id(), 1_000_001, 2).await.expect(409);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    // What can never be applied never is.
    stranger.send("product.created", Some(1), b"{").await;
    let broken = dead_letters(&admin, Node::Order, 1).await.remove(0);
    assert_eq!(redrive(&admin, &broken).await.expect(409)["detail"], broken["reason"]);
    shop.close().await;
}

/// From now on the news of this product ends who applies it.
pub const POISON: &str = "
    create function poison() returns trigger language plpgsql as
        $$begin raise exception 'nobody foresaw this'; end$$;
    create trigger poison before insert or update on products for each row
        when (new.id = 1000007) execute function poison()";

async fn what_ended_its_owner_is_applied_once_the_bug_is_mended(shop: TestShop) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(POISON).execute(&mut database).await.unwrap();
    let mut stranger = Stranger::beside(&shop).await;
    stranger.publish("product.created", 1, &product(1_000_007, 1, 1)).await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    assert_eq!(letter["reason"], "it crashed the actor orders at each attempt");
    assert_eq!(letter["tries"], 4, "once, and handed out again three times");
    let reason = "the message crashed the actor orders again";
    assert_eq!(redrive(&admin, &letter).await.expect(409)["detail"], reason);
    let tried = admin.get(Node::Order, &path(&letter)).await.expect(200);
    assert_eq!((&tried["tries"], &tried["reason"]), (&json!(5), &json!(reason)));
    sqlx::raw_sql("drop trigger poison on products").execute(&mut database).await.unwrap();
    redrive(&admin, &letter).await.expect(200);
    order_for(&admin, admin.id(), 1_000_007, 1).await.expect(201);
    shop.close().await;
}

#[tokio::test]
async fn the_configuration_says_how_often_is_tried_what_ends_its_owner() {
    let mut settings = Settings::new(Over::Bus).await;
    settings.set("SHOP__RABBITMQ__MAX_ATTEMPTS", "1");
    let shop = TestShop::with(settings).await;
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(POISON).execute(&mut database).await.unwrap();
    let mut stranger = Stranger::beside(&shop).await;
    stranger.publish("product.created", 1, &product(1_000_007, 1, 1)).await;
    assert_eq!(dead_letters(&admin, Node::Order, 1).await[0]["tries"], 2);
    shop.close().await;
}

async fn a_dropped_dead_letter_is_gone(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    for body in [b"{", b"["] {
        stranger.send("product.created", Some(1), body).await;
    }
    let letters = dead_letters(&admin, Node::Order, 2).await;
    let dropped = admin.delete(Node::Order, &path(&letters[0])).await.expect(200);
    assert_eq!(dropped["message"], "the dead letter is dropped");
    admin.delete(Node::Order, &path(&letters[0])).await.expect(404);
    admin.get(Node::Order, &path(&letters[0])).await.expect(404);
    redrive(&admin, &letters[0]).await.expect(404);
    assert_eq!(dead_letters(&admin, Node::Order, 1).await, letters[1..]);
    admin.delete(Node::Order, "/admin/dead-letters/7").await.expect(400);
    shop.close().await;
}

async fn a_long_list_comes_in_pages(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    for n in 0..5 {
        stranger.send("product.created", Some(1), n.to_string().as_bytes()).await;
        dead_letters(&admin, Node::Order, n + 1).await; // replicas would park them side by side
    }
    stranger.send("user_deleted", Some(1), b"{").await;
    let letters = dead_letters(&admin, Node::Order, 6).await;
    let payload = |letter: &Value| letter["payload"].as_str().unwrap().to_owned();
    let payloads: Vec<_> = letters.iter().map(payload).collect();
    assert_eq!(payloads, ["0", "1", "2", "3", "4", "{"], "the oldest first");

    for (first, expected) in [
        ("/admin/dead-letters?limit=2", &letters[..]),
        ("/admin/dead-letters?queue=product.created&limit=2", &letters[..5]),
        ("/admin/dead-letters/?limit=6", &letters[..]),
        ("/admin/dead-letters?queue=order.users", &letters[5..]),
        ("/admin/dead-letters?queue=nobody.knows", &[]),
    ] {
        let mut listed = vec![];
        let mut next = Some(first.to_owned());
        while let Some(path) = next {
            let page = admin.get(Node::Order, &path).await;
            listed.extend(page.expect(200).as_array().unwrap().clone());
            next = page.headers.get("link").map(|link| {
                let link = link.to_str().unwrap().strip_prefix('<').unwrap();
                link.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
            });
        }
        assert_eq!(listed, expected, "{first}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=x", "cursor=1.2"] {
        let path = format!("/admin/dead-letters?{query}");
        admin.get(Node::Order, &path).await.expect(400);
    }
    shop.close().await;
}

/// Publishes these and a thousand healthy ones around them; all the healthy ones are applied.
async fn among_a_thousand(shop: &TestShop, stranger: &mut Stranger, poison: Message) {
    let mut messages: Vec<_> = (0..1000)
        .map(|n| product(2_000_000 + n, 1, 1).to_string())
        .map(|body| message("product.created", Some(1), body.as_bytes()))
        .collect();
    messages.insert(300, poison);
    let count = messages.len();
    for message in messages {
        stranger.publisher.publish(1, message).await.unwrap();
    }
    let mut confirmed = 0;
    while confirmed < count {
        confirmed += stranger.publisher.confirmed().await.unwrap().len();
    }
    let mut database = shop.settings.database(Node::Order).await;
    eventually(async || {
        let applied = "select count(*) from products where id >= 2000000 and version = 1";
        let applied = sqlx::query_scalar(applied).fetch_one(&mut database).await.unwrap();
        same(applied, 1000_i64)
    })
    .await;
}

async fn one_poisonous_message_does_not_slow_a_thousand_healthy_ones(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    stranger.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    order_for(&admin, admin.id(), 1_000_001, 4).await.expect(201);
    let handled =
        async || sum(&shop, Node::Order, "shop_mailbox_handled_total", "shop/order/orders/").await;
    let before = handled().await;
    let poison = product(1_000_001, 70, 2).to_string();
    let poison = message("product.created", Some(2), poison.as_bytes());
    among_a_thousand(&shop, &mut stranger, poison).await;
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["reason"], "the new stock is less than what is already sold");
    if shop.bus().is_some() {
        // There the batches are as large as they may be: a handful, and one is halved eight times.
        let transactions = handled().await - before;
        assert!(transactions < 40.0, "{transactions} transactions");
    }
    shop.close().await;
}

async fn one_message_that_ends_its_owner_does_not_slow_a_thousand_healthy_ones(shop: TestShop) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(POISON).execute(&mut database).await.unwrap();
    let mut stranger = Stranger::beside(&shop).await;
    stranger.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    let poison = product(1_000_007, 1, 1).to_string();
    let poison = message("product.created", Some(1), poison.as_bytes());
    among_a_thousand(&shop, &mut stranger, poison).await;
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["reason"], "it crashed the actor orders at each attempt");
    shop.close().await;
}

async fn while_the_database_is_away_nothing_becomes_a_dead_letter(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    stranger.publish("product.created", 1, &product(1_000_002, 70, 4)).await;
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(201);
    let name = format!("{}order", shop.settings.prefix);
    let mut server = shop.settings.database(Node::Auth).await;
    let away = format!("alter database {name} allow_connections false");
    sqlx::raw_sql(sqlx::AssertSqlSafe(away)).execute(&mut server).await.unwrap();
    eventually(async || {
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
        let cut = sqlx::query(cut).bind(&name).execute(&mut server).await.unwrap();
        same(cut.rows_affected(), 0)
    })
    .await;
    let body = product(1_000_003, 70, 4).to_string();
    let news = message("product.created", Some(1), body.as_bytes());
    stranger.publisher.publish(1, news).await.unwrap();
    // It is tried more often than what ends its owner would be.
    let handled =
        async || sum(&shop, Node::Order, "shop_mailbox_handled_total", "shop/order/orders/").await;
    let before = handled().await;
    eventually(async || match handled().await - before {
        tries if tries > 5.0 => Ok(()),
        tries => Err(format!("it was tried {tries} times")),
    })
    .await;
    let back = format!("alter database {name} allow_connections true");
    sqlx::raw_sql(sqlx::AssertSqlSafe(back)).execute(&mut server).await.unwrap();
    stranger.publisher.confirmed().await.unwrap();
    let ordered = async || {
        let ordered = order_for(&admin, admin.id(), 1_000_003, 1).await;
        same(ordered.status.as_u16(), 201)
    };
    eventually(ordered).await;
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    shop.close().await;
}

async fn the_command_line_does_the_same_without_the_shop(shop: TestShop) {
    let admin = shop.admin().await;
    let config = shop.settings.config();
    let run = async |command| run(&config, &Node::ALL, command).await;
    assert_eq!(run(Command::List).await.unwrap(), "there are no dead letters");
    let mut stranger = Stranger::beside(&shop).await;
    let order = sell_too_many(&admin, &mut stranger).await;
    stranger.send("stock.moved", Some(1), b"{").await;
    let id = |letter: &Value| letter["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    let sold = id(&dead_letters(&admin, Node::Order, 1).await[0]);
    let broken = id(&dead_letters(&admin, Node::Catalog, 1).await[0]);

    let table = run(Command::List).await.unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("ID "), "{table}");
    for (id, queue, reason) in [
        (sold, "product.created", "the new stock is less than what is already sold"),
        (broken, "stock.moved", "the body cannot be read"),
    ] {
        let line = lines.iter().find(|line| line.starts_with(&id.to_string())).unwrap();
        assert!(line.contains(queue) && line.contains(reason), "{table}");
    }
    let refusal = run(Command::Redrive { id: sold }).await.unwrap_err().to_string();
    assert_eq!(
        refusal,
        "it still cannot be applied: the new stock is less than what is already sold"
    );
    give_back(&admin, &order).await;
    let settings = shop.settings.clone();
    shop.close().await;
    assert_eq!(run(Command::Redrive { id: sold }).await.unwrap(), "the message is applied");
    assert_eq!(run(Command::Drop { id: broken }).await.unwrap(), "the dead letter is dropped");
    for command in [Command::Redrive { id: sold }, Command::Drop { id: broken }] {
        let refusal = run(command).await.unwrap_err().to_string();
        assert!(refusal.starts_with("there is no dead letter "), "{refusal}");
    }
    let shop = TestShop::with(settings).await;
    let admin = shop.admin().await;
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(409);
    shop.close().await;
}

#[tokio::test]
async fn replicas_share_their_dead_letters() {
    let settings = Settings::new(Over::RabbitMq).await;
    let shops = [TestShop::with(settings.clone()).await, TestShop::with(settings.clone()).await];
    let admin = shops[0].admin().await;
    let admins = [admin.at(shops[0].urls()), admin.at(shops[1].urls())];
    let mut stranger = Stranger::beside(&shops[0]).await;
    let order = sell_too_many(&admin, &mut stranger).await;
    let stocked = dead_letters(&admin, Node::Order, 1).await.remove(0);
    for n in 0..20 {
        stranger.send("product.created", Some(1), n.to_string().as_bytes()).await;
    }
    let letters = dead_letters(&admin, Node::Order, 21).await;
    assert_eq!(dead_letters(&admins[1], Node::Order, 21).await, letters);
    give_back(&admin, &order).await;
    let tried = join_all((0..10).map(|n| redrive(&admins[n % 2], &stocked))).await;
    let statuses: HashSet<_> = tried.iter().map(|answer| answer.status.as_u16()).collect();
    assert!(statuses.contains(&200) && statuses.is_subset(&[200, 404].into()), "{statuses:?}");
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(409);
    for letter in &letters[1..] {
        admins[1].delete(Node::Order, &path(letter)).await.expect(200);
    }
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    for shop in shops {
        shop.close().await;
    }
}

/// The shop in a runtime of its own, whose end is the shop's, as `kill -9` would be.
#[test]
fn a_crash_between_parking_and_keeping_loses_nothing() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap()
    };
    let (test, shops) = (runtime(), runtime());
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let settings = test.block_on(Settings::alone(Over::Bus));
    let shop = shops.block_on(Shop::start(&settings.config(), &Node::ALL)).unwrap();
    test.block_on(async {
        let order = shop.address(Node::Order).unwrap();
        // Nobody can keep it now.
        let mut keeper = settings.database(Node::Order).await;
        sqlx::raw_sql("begin; lock table dead_letters").execute(&mut keeper).await.unwrap();
        let mut catalog = settings.database(Node::Catalog).await;
        let broken = "insert into outbox (message_id, event, version, body)
                      values (gen_random_uuid(), 'product.created', 1, '{');
                      notify outbox";
        sqlx::raw_sql(broken).execute(&mut catalog).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        eventually(async || {
            let metrics = http.get(format!("http://{order}/metrics")).send().await.unwrap();
            let metrics = metrics.text().await.unwrap();
            let parked = metrics.lines().any(|line| {
                line.starts_with("shop_events_dead_lettered_total") && line.ends_with(" 1")
            });
            parked.then_some(()).ok_or("it is not parked".to_owned())
        })
        .await;
        let outbox = "select count(*) from outbox";
        let waiting: i64 = sqlx::query_scalar(outbox).fetch_one(&mut catalog).await.unwrap();
        assert_eq!(waiting, 1, "the outbox has the only durable copy");
        shops.shutdown_background();
        drop(shop);
        sqlx::raw_sql("rollback").execute(&mut keeper).await.unwrap();

        let shop = TestShop::with(settings).await;
        let admin = shop.admin().await;
        let letters = dead_letters(&admin, Node::Order, 1).await;
        assert_eq!(letters[0]["payload"], "{");
        eventually(async || {
            let waiting: i64 = sqlx::query_scalar(outbox).fetch_one(&mut catalog).await.unwrap();
            same(waiting, 0)
        })
        .await;
        shop.close().await;
    });
}
