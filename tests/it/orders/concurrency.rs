//! Concurrent orders and changes.

use std::collections::HashSet;

use futures::future::join_all;
use shop_tests::TestShop;
use shop_tests::api::Order;

use super::{check_stock, set_quantity};

#[tokio::test]
async fn two_hundred_concurrent_orders_of_37_pieces_sell_37() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let buyers = join_all((0..5).map(|number| {
        let shop = &shop;
        async move { shop.user(&format!("buyer{number}")).await }
    }));
    let buyers = buyers.await;
    let teapot = admin.product(1990, 37).await;
    let orders =
        buyers.iter().cycle().take(200).map(|buyer| async { buyer.order(&[(&teapot, 1)]).await });
    let responses = join_all(orders).await;
    let (placed, refused): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 201);
    refused.iter().for_each(|response| drop(response.expect(409)));
    assert_eq!(placed.len(), 37);
    let ids: HashSet<_> = placed.iter().map(|placed| placed.read::<Order>(201).id).collect();
    assert_eq!(ids.len(), 37, "every order has its own id");
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 0);
    shop.close().await;
}

#[tokio::test]
async fn concurrent_orders_and_changes_of_several_products_keep_the_stock_consistent() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let (anna, vera) = (shop.user("anna").await, shop.user("vera").await);
    let (teapot, cup) = (admin.product(1990, 60).await, admin.product(250, 60).await);
    let first: Order = anna.order(&[(&teapot, 5), (&cup, 5)]).await.read(201);
    let work = (0..60).map(|number: i64| {
        let (anna, vera, first, teapot, cup) = (&anna, &vera, &first, &teapot, &cup);
        async move {
            match number % 4 {
                0 => anna.order(&[(teapot, 2), (cup, 1)]).await,
                1 => vera.order(&[(cup, 2), (teapot, 1)]).await,
                2 => set_quantity(anna, first, 0, 1 + number % 9).await,
                _ => set_quantity(anna, first, 1, 9 - number % 9).await,
            }
        }
    });
    for response in join_all(work).await {
        assert!([200, 201, 409].contains(&response.status.as_u16()), "{response:?}");
    }
    check_stock(&shop, &admin, &teapot).await;
    check_stock(&shop, &admin, &cup).await;
    shop.close().await;
}
