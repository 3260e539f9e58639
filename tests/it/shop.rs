//! Former names of the test kit, until the modules that use them are revised.

pub use shop_tests::{
    BrokerKind as Over, Client, PASSWORD, Response as Answer, Settings, TestShop, equal as same,
    eventually,
};
