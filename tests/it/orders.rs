//! Orders: placing, reading, changing an item, and stock that is never sold twice.

mod changes;
mod concurrency;
mod limits;
mod placing;

use serde_json::Value;
use shop_supervisor::Node;
use shop_tests::api::{Order, Product};
use shop_tests::{Client, Response, TestShop};
use sqlx::PgConnection;

async fn place(client: &Client, body: Value) -> Response {
    client.post(Node::Order, "/order", body).await
}

async fn read(client: &Client, order: &Order) -> Order {
    client.get(Node::Order, &order.path()).await.read(200)
}

async fn set_quantity(client: &Client, order: &Order, index: usize, quantity: i64) -> Response {
    let change = order.quantity_change(index, quantity);
    client.put(Node::Order, &order.update_path(), change).await
}

/// Checks that a product's stock is consistent and returns it: on both nodes it is the sum of the
/// movements and not negative, stock and ordered pieces add up to what was stocked, and the totals of
/// all orders are the sums of their items.
async fn check_stock(shop: &TestShop, admin: &Client, product: &Product) -> i64 {
    const STOCK: &str = "select quantity from products where id = $1";
    const MOVED: &str =
        "select coalesce(sum(delta), 0)::bigint from stock_movements where product_id = $1";
    const ORDERED: &str =
        "select coalesce(sum(product_quantity), 0)::bigint from order_items where product_id = $1";
    const WRONG_TOTALS: &str = "
        select count(*) from orders o where (total_quantity, total_price) is distinct from
            (select (sum(product_quantity)::bigint, sum(product_quantity * product_price)::bigint)
             from order_items where order_id = o.id)";
    let mut order = shop.settings.database(Node::Order).await;
    let mut catalog = shop.settings.database(Node::Catalog).await;
    let stock = number(&mut order, STOCK, product).await;
    admin.until_stock(product, stock).await;
    for database in [&mut order, &mut catalog] {
        assert_eq!(number(database, MOVED, product).await, stock, "the movements of {product:?}");
    }
    let ordered = number(&mut order, ORDERED, product).await;
    assert_eq!(stock + ordered, product.storage_quantity);
    let wrong: i64 = sqlx::query_scalar(WRONG_TOTALS).fetch_one(&mut order).await.expect("a count");
    assert_eq!(wrong, 0, "orders with wrong totals");
    assert!(stock >= 0, "{stock} pieces of {product:?}");
    stock
}

/// The number that a query returns for a product.
async fn number(database: &mut PgConnection, query: &'static str, product: &Product) -> i64 {
    let number = sqlx::query_scalar(query).bind(product.id).fetch_one(database).await;
    number.expect("a number")
}
