//! The order node: orders, and the stock that is for sale.
//!
//! ```text
//! order
//! ├── customers/0                  replica of the auth node's users
//! ├── orders/0..n                  orders, and the replica of the catalog's products
//! ├── dead_letters/0               events that could not be applied
//! ├── audit/0                      what administrators did
//! ├── health/0                     queries the database
//! ├── broker                       restarts the rest for one
//! │   ├── connection               detects whether the broker is available
//! │   ├── relay                    outbox → broker
//! │   ├── dead_letter_consumer/…   order.users.dead, product.created.dead → dead_letters
//! │   └── consumer/…               order.users → customers; product.created → orders
//! ├── resync                       snapshots of the other nodes → customers, orders
//! ├── sweeper                      deletes expired idempotency keys
//! └── http                         POST /order · GET /order/{id} · PUT /update_order/{id}
//! ```

use shop_actors::customers;
use shop_actors::orders::{self, Orders};
use shop_actors::subscriptions::AnySubscription;
use shop_http::{Api, ReplicatedTables};
use shop_persistence::Schema;
use shop_persistence::events::ORDER_USERS;
use shop_runtime::{Addr, Child};

use super::context::{Customers, customer_actor, flatten};
use super::{ActorFactory, NodeContext, NodeSettings, NodeSpec, PreparedNode};

pub(super) static SPEC: NodeSpec = NodeSpec {
    name: "order",
    schema: Schema::Order,
    replicates: true,
    settings: |config| NodeSettings {
        shards: config.order.shards,
        database: &config.order.database,
        http: &config.order.http,
        cluster_url: &config.cluster.order_url,
        auth_url: &config.order.auth_url,
    },
    prepare: |node, _| Box::pin(async { Ok(PreparedNode::new(move || children(&node))) }),
    subscribers,
};

fn children(node: &NodeContext) -> anyhow::Result<Vec<Child>> {
    let Customers { addr: customers, authenticator, actors: customer_actors } = node.customers()?;
    let capacity = node.mailboxes.orders;
    let (orders, shards) = node.actors.shards("orders", node.shards, capacity, Orders::new);
    let (common, common_actors) = node.common(subscriptions(&customers, &orders));
    let http_server = node.http_server(Api::Order(orders.clone()), authenticator, &common)?;
    let services = vec![
        node.broker(&common),
        node.resync(ReplicatedTables::Order(customers, orders)),
        node.sweeper(),
        http_server,
    ];
    Ok(flatten([customer_actors, shards, common_actors, services]))
}

fn subscriptions(
    customers: &Addr<customers::Msg>,
    orders: &Addr<orders::Msg>,
) -> Vec<AnySubscription> {
    flatten([customers::subscriptions(customers, ORDER_USERS), orders::subscriptions(orders)])
}

fn subscribers(actors: &ActorFactory) -> (Vec<AnySubscription>, Vec<Child>) {
    let (customers, customer_actors) = customer_actor(actors);
    let (orders, shards) = actors.shards("orders", 1, 16, Orders::new);
    (subscriptions(&customers, &orders), flatten([customer_actors, shards]))
}
