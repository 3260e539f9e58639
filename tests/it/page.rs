//! The admin page in a real browser.

use fantoccini::Locator::Css;
use fantoccini::elements::Element;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::browser::Browser;
use shop_tests::{Client, PASSWORD, TestShop, equal, eventually};

use crate::actors::{break_orders, find, list, repair_orders};

/// The page of the catalog node in its own window.
struct Page(Browser);

impl Page {
    async fn open(shop: &TestShop) -> Page {
        let browser = Browser::open().await.expect("a browser");
        let url = format!("http://{}/admin", shop.anonymous().peer(Node::Catalog));
        browser.page.goto(&url).await.expect("the page");
        Page(browser)
    }

    /// The element of a CSS selector, if it is displayed now.
    async fn shown(&self, selector: &str) -> Result<Element, String> {
        let found = self.0.page.find(Css(selector)).await.map_err(|error| error.to_string())?;
        match found.is_displayed().await {
            Ok(true) => Ok(found),
            Ok(false) => Err(format!("{selector} is hidden")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until an element contains this text.
    async fn reads(&self, selector: &str, text: &str) {
        eventually(async || {
            let shown =
                self.shown(selector).await?.text().await.map_err(|error| error.to_string())?;
            if shown.contains(text) { Ok(()) } else { Err(format!("{selector} reads {shown:?}")) }
        })
        .await;
    }

    async fn click(&self, selector: &str) {
        eventually(async || {
            self.shown(selector).await?.click().await.map_err(|error| error.to_string())
        })
        .await;
    }

    async fn write(&self, selector: &str, text: &str) {
        eventually(async || {
            let input = self.shown(selector).await?;
            input.clear().await.map_err(|error| error.to_string())?;
            input.send_keys(text).await.map_err(|error| error.to_string())
        })
        .await;
    }

    async fn log_in(&self, name: &str, password: &str) {
        self.write("#username", name).await;
        self.write("#password", password).await;
        self.click("#sign-in").await;
    }

    /// Waits until an actor of each node is displayed.
    async fn shows_all_nodes(&self, client: &Client) {
        for node in Node::ALL {
            let (name, peer) = (node.name(), client.peer(node));
            let row = format!("[data-path='shop/{name}/http'][data-peer='{peer}'][data-status]");
            eventually(async || self.shown(&row).await).await;
        }
    }

    async fn run(&self, script: &str) -> Value {
        self.0.page.execute(script, vec![]).await.expect("a value")
    }
}

#[tokio::test]
async fn an_administrator_logs_in_and_sees_all_nodes() {
    let shop = TestShop::start_single_replica().await;
    shop.user("anna").await;
    let page = Page::open(&shop).await;
    page.log_in("admin", "wrong horse").await;
    page.reads("#sign-in-error", "password").await;
    page.log_in("anna", PASSWORD).await;
    page.reads("#sign-in-error", "not an administrator").await;
    let rows = page.run("return document.querySelectorAll('[data-path]').length").await;
    assert_eq!(rows, 0, "no actor is displayed before the login");
    page.log_in("admin", PASSWORD).await;
    page.shows_all_nodes(&shop.anonymous()).await;
    eventually(async || page.shown("[data-path='shop/order/orders/0'][data-status=running]").await)
        .await;
    page.0.close().await.unwrap();
    shop.close().await;
}

#[tokio::test]
async fn an_injected_failure_appears_and_the_button_restarts_the_actor() {
    let shop = TestShop::start_single_replica().await;
    let admin = shop.admin().await;
    let teapot = admin.product(5, 1000).await;
    admin.order(&[(&teapot, 1)]).await.expect(201);
    let page = Page::open(&shop).await;
    page.log_in("admin", PASSWORD).await;
    page.shows_all_nodes(&admin).await;

    break_orders(&shop).await;
    admin.order(&[(&teapot, 1)]).await.expect(503);
    let failed = eventually(async || {
        let all = list(&admin, Node::Order).await;
        all.into_iter().find(|it| it.restarts == 1).ok_or("no actor has failed".to_owned())
    });
    let path = failed.await.path;
    assert!(path.starts_with("shop/order/orders/"), "{path}");
    page.click(&format!("[data-path='{path}']")).await;
    page.reads("#details #failures", "a test failure").await;

    repair_orders(&shop).await;
    page.click("#details [data-action=restart]").await;
    page.click("#confirm #confirm-no").await;
    page.click("#details [data-action=restart]").await;
    page.write("#confirm #reason", "it failed").await;
    page.click("#confirm #confirm-yes").await;
    eventually(async || {
        // The message is displayed for a few seconds only.
        let message = page.run("return document.querySelector('#toast').textContent").await;
        if message == "" { Err("no message".to_owned()) } else { Ok(()) }
    })
    .await;
    eventually(async || {
        let actor = find(&admin, Node::Order, &path).await;
        equal((actor.restarts, actor.status.as_str()), (2, "running")).map(|_| ())
    })
    .await;
    page.reads("#details #failures", "it failed").await;
    eventually(async || page.shown(&format!("[data-path='{path}'][data-status=running]")).await)
        .await;
    let audit = admin.get(Node::Order, "/admin/audit").await.expect(200);
    assert_eq!(audit.as_array().map(Vec::len), Some(1), "{audit}");
    let entry = ["username", "action", "actor", "reason"].map(|field| audit[0][field].clone());
    assert_eq!(entry, ["admin", "restart", &path, "it failed"]);
    admin.order(&[(&teapot, 1)]).await.expect(201);
    page.0.close().await.unwrap();
    shop.close().await;
}

#[tokio::test]
async fn the_page_loads_only_from_its_node_and_fits_a_narrow_window() {
    let shop = TestShop::start_single_replica().await;
    let anonymous = shop.anonymous();
    for file in ["/admin", "/admin/page.css", "/admin/page.js", "/admin/page/tree.js"] {
        let response = anonymous.get(Node::Catalog, file).await;
        assert_eq!(response.status, 200, "{file}");
        let policy = response.header("content-security-policy");
        let mut rules = policy.split(';').map(|rule| rule.split_whitespace().collect::<Vec<_>>());
        assert!(rules.clone().any(|rule| rule == ["default-src", "'none'"]), "{file}: {policy}");
        let strict = |source: &&str| ["'none'", "'self'"].contains(source);
        assert!(rules.all(|rule| rule[1..].iter().all(strict)), "{file}: {policy}");
    }

    let page = Page::open(&shop).await;
    let assert_fits = async |view: &str| {
        let widths = "return [innerWidth, document.documentElement.scrollWidth]";
        let widths = page.run(widths).await;
        assert_eq!(widths[0], 360, "{view}");
        assert!(widths[1].as_u64() <= Some(360), "{view} is wider than its window: {widths}");
    };
    page.0.page.set_window_size(360, 800).await.unwrap();
    eventually(async || equal(page.run("return innerWidth").await, json!(360))).await;
    eventually(async || page.shown("#sign-in").await).await;
    assert_fits("the login").await;
    page.log_in("admin", PASSWORD).await;
    page.shows_all_nodes(&anonymous).await;
    assert_fits("the list").await;
    page.click("[data-path='shop/order/orders/0']").await;
    eventually(async || page.shown("#details #failures").await).await;
    assert_fits("the details").await;
    page.click("#details [data-action=restart]").await;
    eventually(async || page.shown("#confirm #reason").await).await;
    assert_fits("the confirmation").await;
    page.click("#confirm-no").await;

    let script = "return performance.getEntriesByType('resource').map((it) => it.name)";
    let loaded = page.run(script).await;
    let own = format!("http://{}/", anonymous.peer(Node::Catalog));
    for url in loaded.as_array().unwrap() {
        assert!(url.as_str().unwrap().starts_with(&own), "{url} is on another host");
    }
    assert_eq!(page.0.console_errors().await.unwrap(), [""; 0]);
    page.0.close().await.unwrap();
    shop.close().await;
}
