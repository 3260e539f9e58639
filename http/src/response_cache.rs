//! The cache of the catalog's lists: rendered once, and served as bytes until the catalog changes.

use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::future::Cache;
use shop_actors::Result;
use shop_actors::catalog::Msg;
use shop_persistence::ChangeCounter;
use shop_persistence::catalog::{CategoryCursor, CategoryId, ProductId};
use shop_persistence::pages::PageRequest;
use shop_runtime::Addr;
use uuid::Uuid;

use crate::pages::{Page, STREAM_PAGE};

/// The capacity of the cache, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The maximum age of a cached page. Changes by other replicas are usually known at once; if the
/// notification is delayed, a page is at most this old.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A page of one of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// Categories, each parent before its children.
    Categories(PageRequest<CategoryCursor>),
    /// Products.
    Products(PageRequest<ProductId>),
    /// The products of one category.
    ProductsOf(CategoryId, PageRequest<ProductId>),
}

impl List {
    /// Whether the page is cached: all clients ask for the beginning of a list or the whole list,
    /// but each for another page in its middle.
    fn is_cached(&self) -> bool {
        let (is_first, limit) = match self {
            List::Categories(page) => (page.after.is_none(), page.limit),
            List::Products(page) | List::ProductsOf(_, page) => (page.after.is_none(), page.limit),
        };
        is_first || limit == STREAM_PAGE.with_lookahead()
    }
}

/// The cache. Clones share it.
#[derive(Debug, Clone)]
pub struct ResponseCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Addr<Msg>,
    changes: ChangeCounter,
    /// By the change counter at the time of rendering: outdated pages are not found again.
    pages: Cache<(List, u64), Arc<Page>, RandomState>,
}

impl ResponseCache {
    /// A cache of the lists of this actor, whose changes this counter counts.
    pub fn new(catalog: &Addr<Msg>, changes: &ChangeCounter) -> ResponseCache {
        let weight = |_: &_, page: &Arc<Page>| u32::try_from(page.weight()).unwrap_or(u32::MAX);
        let pages = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(weight)
            .time_to_live(MAX_AGE)
            .build_with_hasher(RandomState::default());
        let (catalog, changes) = (catalog.clone(), changes.clone());
        ResponseCache(Arc::new(Inner { catalog, changes, pages }))
    }

    /// A page: from the cache, or rendered once for all concurrent requests.
    ///
    /// # Errors
    /// Those of the catalog actor.
    pub async fn page(self, list: List) -> Result<Arc<Page>> {
        let Inner { catalog, changes, pages } = &*self.0;
        if !list.is_cached() {
            return render(catalog, list).await;
        }
        let key = (list, changes.count()); // before the list is read
        if let Some(page) = pages.get(&key).await {
            return Ok(page); // the hot path, without the coordination of concurrent requests
        }
        let render = Box::pin(render(catalog, list));
        pages.try_get_with(key, render).await.map_err(|error| error.share())
    }
}

async fn render(catalog: &Addr<Msg>, list: List) -> Result<Arc<Page>> {
    let any_shard = Uuid::new_v4();
    let page = match list {
        List::Categories(request) => {
            let list = |reply| Msg::ListCategories(request, reply);
            Page::render(catalog.ask(any_shard, list).await?, request, |category| category.place())
        }
        List::Products(request) => {
            let list = |reply| Msg::ListProducts(request, reply);
            Page::render(catalog.ask(any_shard, list).await?, request, |product| product.id)
        }
        List::ProductsOf(category, request) => {
            let list = |reply| Msg::ListProductsOf(category, request, reply);
            Page::render(catalog.ask(any_shard, list).await?, request, |product| product.id)
        }
    };
    page.map(Arc::new)
}
