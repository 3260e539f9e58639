//! The cost of a batch of orders outside the database: deciding it, and serialising its event.

use std::collections::HashSet;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use shop_persistence::events::{Event, StockMoved};
use shop_persistence::orders::{Inventory, NewOrder, StockedProduct, decide};
use shop_persistence::stock::Movement;
use shop_persistence::users::UserId;
use uuid::Uuid;

const ORDERS: i64 = 128;
const PRODUCTS: i64 = 100;

fn inventory() -> Inventory {
    let product = |id| {
        let name = format!("Product number {id}");
        (id, StockedProduct { name, price: 1990, quantity: 1_000_000 })
    };
    (0..PRODUCTS).map(product).collect()
}

fn orders(buyer: UserId) -> Vec<NewOrder> {
    let order = |number: i64| {
        let items = vec![(number % PRODUCTS, 1), ((number + 37) % PRODUCTS, 2)];
        NewOrder::new(buyer, items).expect("an order")
    };
    (0..ORDERS).map(order).collect()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let buyer = Uuid::now_v7();
    let (customers, orders) = (HashSet::from([buyer]), orders(buyer));

    let mut deciding = criterion.benchmark_group("a batch of 128 orders of 2 items");
    deciding.throughput(Throughput::Elements(ORDERS as u64));
    deciding.bench_function("decided", |bench| {
        let decide_all = |mut inventory: Inventory| {
            orders.iter().filter(|new| decide(new, &customers, &mut inventory).is_ok()).count()
        };
        bench.iter_batched(inventory, decide_all, BatchSize::SmallInput);
    });
    deciding.finish();

    let sold = |number| Movement::sold(number % PRODUCTS, -2, number);
    let event = StockMoved { movements: (0..2 * ORDERS).map(sold).collect() };
    let body = serde_json::to_string(&event).expect("JSON");
    let mut serialising = criterion.benchmark_group("an event of 256 movements");
    serialising.throughput(Throughput::Bytes(body.len() as u64));
    serialising.bench_function("written", |bench| {
        bench.iter(|| serde_json::to_string(black_box(&event)).expect("JSON"));
    });
    serialising.bench_function("read", |bench| {
        bench.iter(|| StockMoved::read(black_box(body.as_bytes())).expect("an event"));
    });
    serialising.finish();
    criterion.final_summary();
}
