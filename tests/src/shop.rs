//! A shop in the test's process.

use shop_messaging::Bus;
use shop_runtime::registry::ActorRegistry;
use shop_supervisor::{Node, Shop};

use crate::client::Client;
use crate::settings::{BrokerKind, Settings};
use crate::urls::Urls;

/// All nodes in this process, each with a database and a port of its own.
#[derive(Debug)]
pub struct TestShop {
    replicas: Vec<Shop>,
    /// Its configuration.
    pub settings: Settings,
    urls: Urls,
}

impl TestShop {
    /// Starts a shop on the in-process bus.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> TestShop {
        TestShop::start_on(BrokerKind::Bus).await
    }

    /// Starts a shop on this broker.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_on(broker: BrokerKind) -> TestShop {
        TestShop::start_with(Settings::new(broker).await).await
    }

    /// Starts a shop with one replica of every node on the in-process bus, for a test of what a
    /// process knows about itself.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_single_replica() -> TestShop {
        TestShop::start_with(Settings::single_replica(BrokerKind::Bus).await).await
    }

    /// Starts a shop with these settings.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(settings: Settings) -> TestShop {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = settings.config();
        let mut replicas = vec![];
        for _ in 0..settings.replicas {
            replicas.push(Shop::start(&config, &Node::ALL).await.expect("the shop starts"));
        }
        let url = |shop: &Shop, node| format!("http://{}", shop.address(node).expect("a listener"));
        let urls = Urls::of_replicas(|node| replicas.iter().map(|shop| url(shop, node)).collect());
        TestShop { replicas, settings, urls }
    }

    /// The in-process bus, if this shop uses it.
    pub fn bus(&self) -> Option<&Bus> {
        self.replicas[0].bus.as_ref()
    }

    /// The actor registry of the first replica.
    pub fn registry(&self) -> &ActorRegistry {
        &self.replicas[0].registry
    }

    /// The URLs of the nodes.
    pub fn urls(&self) -> &Urls {
        &self.urls
    }

    /// A client without a token.
    pub fn anonymous(&self) -> Client {
        Client::new(self.urls.clone())
    }

    /// The first administrator, logged in.
    pub async fn admin(&self) -> Client {
        self.anonymous().log_in("admin").await
    }

    /// Registers a user and logs in.
    pub async fn user(&self, name: &str) -> Client {
        self.anonymous().register(name).await
    }

    /// Stops the shop; returns whether its outboxes are empty.
    pub async fn stop(self) -> bool {
        let mut relayed = true;
        for shop in self.replicas {
            relayed &= shop.stop().await;
        }
        relayed
    }

    /// Stops the shop.
    ///
    /// # Panics
    /// When an event is left in an outbox.
    pub async fn close(self) {
        assert!(self.stop().await, "events are left in an outbox");
    }
}
