//! The catalog's lists, ready to be sent: rendered once, and kept as bytes until something changes.

use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::future::Cache;
use shop_actors::catalog::Msg;
use shop_persistence::ChangeCounter;
use shop_persistence::Result;
use shop_persistence::catalog::{CategoryCursor, CategoryId, ProductId};
use shop_persistence::pages::PageRequest;
use shop_runtime::Addr;
use uuid::Uuid;

use crate::pages::{Page, WHOLE};

/// So many bytes of lists are kept.
const MOST_KEPT: u64 = 16 << 20;

/// What another replica changed is usually heard of at once. Where it is not, because the network hangs, a list is at most so
/// old.
const OLDEST: Duration = Duration::from_secs(1);

/// A part of one of the lists.
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
    /// Whether it is worth keeping: all want the beginning of a list, or the whole of it, and each
    /// another place in its middle.
    fn is_kept(&self) -> bool {
        let (begins, limit) = match self {
            List::Categories(part) => (part.after.is_none(), part.limit),
            List::Products(part) | List::ProductsOf(_, part) => (part.after.is_none(), part.limit),
        };
        begins || limit == WHOLE.part()
    }
}

/// The lists, and who owns what stands in them. Every request has a clone.
#[derive(Debug, Clone)]
pub struct ResponseCache(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    catalog: Addr<Msg>,
    changes: ChangeCounter,
    /// As they were at this count of changes: what is out of date is never looked up again.
    ready: Cache<(List, u64), Arc<Page>, RandomState>,
}

impl ResponseCache {
    /// The lists of this owner, who tells of these changes.
    pub fn new(catalog: &Addr<Msg>, changes: &ChangeCounter) -> ResponseCache {
        let weight = |_: &_, page: &Arc<Page>| u32::try_from(page.weight()).unwrap_or(u32::MAX);
        let ready = Cache::builder().max_capacity(MOST_KEPT).weigher(weight).time_to_live(OLDEST);
        let (catalog, changes) = (catalog.clone(), changes.clone());
        let ready = ready.build_with_hasher(RandomState::default());
        ResponseCache(Arc::new(Kept { catalog, changes, ready }))
    }

    /// A page, as it is now: kept, or rendered once for all who ask meanwhile.
    pub async fn page(self, list: List) -> Result<Arc<Page>> {
        let Kept { catalog, changes, ready } = &*self.0;
        if !list.is_kept() {
            return render(catalog, list).await;
        }
        let key = (list, changes.count()); // before it is read
        if let Some(page) = ready.get(&key).await {
            return Ok(page); // the hot path: without a place among those who wait for it
        }
        let render = Box::pin(render(catalog, list));
        ready.try_get_with(key, render).await.map_err(|error| error.share())
    }
}

async fn render(catalog: &Addr<Msg>, list: List) -> Result<Arc<Page>> {
    let anyone = Uuid::new_v4();
    let page = match list {
        List::Categories(part) => {
            let list = |reply| Msg::ListCategories(part, reply);
            Page::of(catalog.ask(anyone, list).await?, part, |category| category.place())
        }
        List::Products(part) => {
            let list = |reply| Msg::ListProducts(part, reply);
            Page::of(catalog.ask(anyone, list).await?, part, |product| product.id)
        }
        List::ProductsOf(category, part) => {
            let list = |reply| Msg::ListProductsOf(category, part, reply);
            Page::of(catalog.ask(anyone, list).await?, part, |product| product.id)
        }
    };
    page.map(Arc::new)
}
