//! Former names of methods, until the modules that use them are revised.

use serde_json::Value;
use shop_messaging::Broker;

use crate::api::Product;
use crate::{BrokerKind, Client, Response, Settings, TestShop};

impl TestShop {
    /// [`TestShop::start_on`].
    pub async fn over(broker: BrokerKind) -> TestShop {
        TestShop::start_on(broker).await
    }

    /// [`TestShop::start_with`].
    pub async fn with(settings: Settings) -> TestShop {
        TestShop::start_with(settings).await
    }

    /// [`TestShop::anonymous`].
    pub fn nobody(&self) -> Client {
        self.anonymous()
    }
}

impl Settings {
    /// [`Settings::single_replica`].
    pub async fn alone(broker: BrokerKind) -> Settings {
        Settings::single_replica(broker).await
    }

    /// [`Settings::foreign_broker`].
    pub fn rabbit(&self, port: u16) -> Broker {
        self.foreign_broker(port)
    }
}

impl Client {
    /// [`Client::stock`].
    pub async fn left(&self, product: &Product) -> i64 {
        self.stock(product).await
    }

    /// [`Client::log_in`].
    pub async fn sign_in(&self, name: &str) -> Client {
        self.log_in(name).await
    }

    /// [`Client::place_order`].
    pub async fn place(&self, order: Value) -> Response {
        self.place_order(order).await
    }
}

impl Response {
    /// [`Response::invalid_fields`].
    #[track_caller]
    pub fn broken_fields(&self) -> Vec<String> {
        self.invalid_fields()
    }
}
