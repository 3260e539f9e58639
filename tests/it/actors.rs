//! The inspector: what it shows of a node's actors and of the cluster, and how administrators control
//! them.

mod control;
mod failures;
mod guarantees;
mod inspection;

use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::api::{ActorView, Product};
use shop_tests::{Client, Response, TestShop, equal, eventually};

/// The actor at a path.
pub async fn find(admin: &Client, node: Node, path: &str) -> ActorView {
    admin.get(node, &format!("/admin/actors/{path}")).await.read(200)
}

/// All actors of a node.
pub async fn list(admin: &Client, node: Node) -> Vec<ActorView> {
    admin.get(node, "/admin/actors?flat=true").await.read(200)
}

/// Requests a control action.
async fn control(admin: &Client, node: Node, path: &str, action: &str) -> Response {
    let path = format!("/admin/actors/{path}/{action}");
    admin.post(node, &path, json!({"reason": "to see what happens"})).await
}

async fn until_status(admin: &Client, node: Node, path: &str, status: &str) -> ActorView {
    eventually(async || {
        let actor = find(admin, node, path).await;
        equal(actor.status.as_str(), status)?;
        Ok(actor)
    })
    .await
}

/// Waits until a branch has restarted. Its HTTP server restarts with it.
async fn until_restarted(admin: &Client, node: Node, path: &str) -> ActorView {
    eventually(async || {
        let request = admin.request(Method::GET, node, &format!("/admin/actors/{path}"));
        let response = request.send().await.map_err(|error| error.to_string())?;
        let branch: ActorView = response.json().await.map_err(|error| error.to_string())?;
        equal(branch.restarts, 1)?;
        Ok(branch)
    })
    .await
}

/// Waits until an order succeeds.
async fn until_order_succeeds(client: &Client, product: &Product) {
    eventually(async || equal(client.order(&[(product, 1)]).await.status.as_u16(), 201)).await;
}

/// Makes every order fail with an error that its actor does not expect.
pub async fn break_orders(shop: &TestShop) {
    let fail = "create function fail() returns trigger language plpgsql as
                  $$ begin raise exception 'a test failure'; end $$;
                create trigger fail before insert on orders for each row execute function fail()";
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(fail).execute(&mut database).await.expect("a trigger");
}

/// Undoes [`break_orders`].
pub async fn repair_orders(shop: &TestShop) {
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql("drop trigger fail on orders").execute(&mut database).await.expect("no trigger");
}
