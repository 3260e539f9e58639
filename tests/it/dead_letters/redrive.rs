//! Applying dead letters again, over HTTP and from the command line.

use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_supervisor::commands::dead_letters::{Command, run};
use shop_tests::TestShop;
use uuid::Uuid;

use super::{CRASHING, dead_letters, oversell_product, path, redrive, return_three_pieces};
use crate::events::{ExternalPublisher, order_for, product};

on_both_brokers! {
    a_redrive_succeeds_after_the_cause_is_removed
    a_redrive_of_a_crashing_message_succeeds_after_the_bug_is_fixed
    the_command_line_manages_dead_letters_of_a_stopped_shop
}

async fn a_redrive_succeeds_after_the_cause_is_removed(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    let order = oversell_product(&admin, &mut external).await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    let reason = "the new stock is less than what is already sold";
    assert_eq!(letter["reason"], reason);

    assert_eq!(redrive(&admin, &letter).await.expect(409)["detail"], reason);
    let failed = admin.get(Node::Order, &path(&letter)).await.expect(200);
    assert_eq!((&failed["tries"], &failed["reason"]), (&json!(2), &json!(reason)));
    assert_eq!(failed["first_failed_at"], letter["first_failed_at"]);

    return_three_pieces(&admin, &order).await;
    assert_eq!(redrive(&admin, &letter).await.expect(200)["message"], "the message is applied");
    redrive(&admin, &letter).await.expect(404);
    assert!(dead_letters(&admin, Node::Order, 0).await.is_empty());
    // Two pieces are stocked and one is sold.
    order_for(&admin, admin.id(), 1_000_001, 2).await.expect(409);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    // An invalid message stays invalid.
    external.send("product.created", Some(1), b"{").await;
    let invalid = dead_letters(&admin, Node::Order, 1).await.remove(0);
    assert_eq!(redrive(&admin, &invalid).await.expect(409)["detail"], invalid["reason"]);
    shop.close().await;
}

async fn a_redrive_of_a_crashing_message_succeeds_after_the_bug_is_fixed(shop: TestShop) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(CRASHING).execute(&mut database).await.unwrap();
    let mut external = ExternalPublisher::connect(&shop).await;
    external.publish("product.created", 1, &product(1_000_007, 1, 1)).await;
    let letter = dead_letters(&admin, Node::Order, 1).await.remove(0);
    assert_eq!(letter["reason"], "it crashed the actor orders at each attempt");
    assert_eq!(letter["tries"], 4, "the first delivery and three redeliveries");
    let reason = "the message crashed the actor orders again";
    assert_eq!(redrive(&admin, &letter).await.expect(409)["detail"], reason);
    let failed = admin.get(Node::Order, &path(&letter)).await.expect(200);
    assert_eq!((&failed["tries"], &failed["reason"]), (&json!(5), &json!(reason)));
    sqlx::raw_sql("drop trigger crash on products").execute(&mut database).await.unwrap();
    redrive(&admin, &letter).await.expect(200);
    order_for(&admin, admin.id(), 1_000_007, 1).await.expect(201);
    shop.close().await;
}

async fn the_command_line_manages_dead_letters_of_a_stopped_shop(shop: TestShop) {
    let admin = shop.admin().await;
    let config = shop.settings.config();
    let run = async |command| run(&config, &Node::ALL, command).await;
    assert_eq!(run(Command::List).await.unwrap(), "there are no dead letters");
    let mut external = ExternalPublisher::connect(&shop).await;
    let order = oversell_product(&admin, &mut external).await;
    external.send("stock.moved", Some(1), b"{").await;
    let id = |letter: &Value| letter["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    let refused = id(&dead_letters(&admin, Node::Order, 1).await[0]);
    let invalid = id(&dead_letters(&admin, Node::Catalog, 1).await[0]);

    let table = run(Command::List).await.unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("ID "), "{table}");
    for (id, queue, reason) in [
        (refused, "product.created", "the new stock is less than what is already sold"),
        (invalid, "stock.moved", "the body cannot be read"),
    ] {
        let line = lines.iter().find(|line| line.starts_with(&id.to_string())).unwrap();
        assert!(line.contains(queue) && line.contains(reason), "{table}");
    }
    let error = run(Command::Redrive { id: refused }).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "it still cannot be applied: the new stock is less than what is already sold"
    );
    return_three_pieces(&admin, &order).await;
    let settings = shop.settings.clone();
    shop.close().await;
    assert_eq!(run(Command::Redrive { id: refused }).await.unwrap(), "the message is applied");
    assert_eq!(run(Command::Drop { id: invalid }).await.unwrap(), "the dead letter is dropped");
    for command in [Command::Redrive { id: refused }, Command::Drop { id: invalid }] {
        let error = run(command).await.unwrap_err().to_string();
        assert!(error.starts_with("there is no dead letter "), "{error}");
    }
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(201);
    order_for(&admin, admin.id(), 1_000_001, 1).await.expect(409);
    shop.close().await;
}
