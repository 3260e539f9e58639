//! The cost of rendering a page of a list.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use shop_http::Page;
use shop_persistence::catalog::{Product, ProductId};
use shop_persistence::pages::PageRequest;

fn product(id: ProductId) -> Product {
    let name = format!("Product number {id}");
    Product { id, name, price: 1990, storage_quantity: 1_000_000, category_id: 1 + id % 7 }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rendering = criterion.benchmark_group("a list of products");
    for count in [50, 100, 1000] {
        let request = PageRequest { after: Some(1), limit: count + 1 };
        let render = |products| Page::render(products, request, |product: &Product| product.id);
        rendering.throughput(Throughput::Elements(count as u64));
        rendering.bench_function(BenchmarkId::new("rendered", count), |bench| {
            let products = || (0..count).map(product).collect();
            bench.iter_batched(products, render, BatchSize::SmallInput);
        });
    }
    rendering.finish();
    criterion.final_summary();
}
