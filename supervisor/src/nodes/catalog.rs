//! The catalog node: categories, products and their stock.
//!
//! ```text
//! catalog
//! ├── customers/0                  replica of the auth node's users
//! ├── catalog/0..n                 categories, products and their stock
//! ├── dead_letters/0               events that could not be applied
//! ├── audit/0                      what administrators did
//! ├── health/0                     queries the database
//! ├── broker                       restarts the rest for one
//! │   ├── connection               detects whether the broker is available
//! │   ├── relay                    outbox → broker
//! │   ├── dead_letter_consumer/…   catalog.users.dead, stock.moved.dead → dead_letters
//! │   └── consumer/…               catalog.users → customers; stock.moved → catalog
//! ├── resync                       snapshots of the other nodes → customers, catalog
//! ├── change_listener              invalidates cached lists after changes by other replicas
//! ├── sweeper                      deletes expired idempotency keys
//! └── http                         /api/v1/category · /api/v1/product · …
//! ```

use shop_actors::catalog::{self, Catalog};
use shop_actors::customers;
use shop_actors::subscriptions::AnySubscription;
use shop_http::{Api, ReplicatedTables, ResponseCache};
use shop_persistence::Schema;
use shop_persistence::events::CATALOG_USERS;
use shop_runtime::{Addr, Child};

use super::context::{Customers, customer_actor, flatten};
use super::{ActorFactory, NodeContext, NodeSettings, NodeSpec, PreparedNode};

pub(super) static SPEC: NodeSpec = NodeSpec {
    name: "catalog",
    schema: Schema::Catalog,
    replicates: true,
    settings: |config| NodeSettings {
        shards: config.catalog.shards,
        database: &config.catalog.database,
        http: &config.catalog.http,
        cluster_url: &config.cluster.catalog_url,
        auth_url: &config.catalog.auth_url,
    },
    prepare: |node, _| Box::pin(async { Ok(PreparedNode::new(move || children(&node))) }),
    subscribers,
};

fn children(node: &NodeContext) -> anyhow::Result<Vec<Child>> {
    let Customers { addr: customers, authenticator, actors: customer_actors } = node.customers()?;
    let capacity = node.mailboxes.catalog;
    let (catalog, shards) = node.actors.shards("catalog", node.shards, capacity, Catalog::new);
    let (common, common_actors) = node.common(subscriptions(&customers, &catalog));
    let lists = ResponseCache::new(&catalog, node.actors.database.changes());
    let api = Api::Catalog(shop_http::Catalog { catalog: catalog.clone(), lists });
    let http_server = node.http_server(api, authenticator, &common)?;
    let services = vec![
        node.broker(&common),
        node.resync(ReplicatedTables::Catalog(customers, catalog)),
        node.change_listener(),
        node.sweeper(),
        http_server,
    ];
    Ok(flatten([customer_actors, shards, common_actors, services]))
}

fn subscriptions(
    customers: &Addr<customers::Msg>,
    catalog: &Addr<catalog::Msg>,
) -> Vec<AnySubscription> {
    flatten([customers::subscriptions(customers, CATALOG_USERS), catalog::subscriptions(catalog)])
}

fn subscribers(actors: &ActorFactory) -> (Vec<AnySubscription>, Vec<Child>) {
    let (customers, customer_actors) = customer_actor(actors);
    let (catalog, shards) = actors.shards("catalog", 1, 16, Catalog::new);
    (subscriptions(&customers, &catalog), flatten([customer_actors, shards]))
}
