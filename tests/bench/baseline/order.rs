//! Serves orders with one query each on an open connection: the cost of HTTP and PostgreSQL alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde::Serialize;
use shop_supervisor::Node;
use sqlx::{FromRow, PgConnection};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::environment::{connect, database_name};

/// The query of the order node.
const FIND: &str = "
    select o.user_id, o.total_quantity, o.total_price, o.status, o.created_at,
           coalesce(c.username, '') as username, coalesce(c.email, '') as email,
           i.id as item_id, i.order_id, i.product_id, i.product_quantity, i.product_name, i.product_price
    from orders o
    join order_items i on i.order_id = o.id
    left join customers c on c.id = o.user_id
    where o.id = $1
    order by i.id";

#[derive(FromRow)]
struct OrderRow {
    user_id: Uuid,
    total_quantity: i64,
    total_price: i64,
    status: String,
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    created_at: Timestamp,
    username: String,
    email: String,
    item_id: i64,
    order_id: i64,
    product_id: i64,
    product_quantity: i64,
    product_name: String,
    product_price: i64,
}

#[derive(Serialize)]
struct Order {
    id: i64,
    user_id: Uuid,
    total_quantity: i64,
    total_price: i64,
    status: String,
    created_at: Timestamp,
    items: Vec<Item>,
    user: Buyer,
}

#[derive(Serialize)]
struct Item {
    id: i64,
    order_id: i64,
    product_id: i64,
    product_quantity: i64,
    product: Product,
}

#[derive(Serialize)]
struct Product {
    id: i64,
    name: String,
    price: i64,
}

#[derive(Serialize)]
struct Buyer {
    id: Uuid,
    username: String,
    email: String,
}

/// Open connections, used round-robin.
struct Database {
    connections: Vec<Mutex<PgConnection>>,
    next: AtomicUsize,
}

/// Serves the orders of the order node's database over this number of database connections.
pub async fn serve(port: u16, database_port: u16, connections: usize) -> anyhow::Result<()> {
    let name = database_name(Node::Order);
    let open = async || anyhow::Ok(Mutex::new(connect(database_port, &name).await?));
    let connections = try_join_all((0..connections).map(|_| open())).await?;
    let database = Arc::new(Database { connections, next: AtomicUsize::new(0) });
    super::serve(port, Router::new().route("/order/{id}", get(find)).with_state(database)).await
}

async fn find(
    State(database): State<Arc<Database>>,
    Path(id): Path<i64>,
) -> Result<Json<Order>, StatusCode> {
    let index = database.next.fetch_add(1, Ordering::Relaxed) % database.connections.len();
    let mut connection = database.connections[index].lock().await;
    let rows = sqlx::query_as(FIND).bind(id).fetch_all(&mut *connection).await;
    drop(connection);
    let rows: Vec<OrderRow> = rows.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    order(id, rows).map(Json).ok_or(StatusCode::NOT_FOUND)
}

fn order(id: i64, rows: Vec<OrderRow>) -> Option<Order> {
    let mut order = None;
    for row in rows {
        let order = order.get_or_insert_with(|| Order {
            id,
            user_id: row.user_id,
            total_quantity: row.total_quantity,
            total_price: row.total_price,
            status: row.status,
            created_at: row.created_at,
            items: vec![],
            user: Buyer { id: row.user_id, username: row.username, email: row.email },
        });
        order.items.push(Item {
            id: row.item_id,
            order_id: row.order_id,
            product_id: row.product_id,
            product_quantity: row.product_quantity,
            product: Product {
                id: row.product_id,
                name: row.product_name,
                price: row.product_price,
            },
        });
    }
    order
}
