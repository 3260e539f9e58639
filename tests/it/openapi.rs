//! The committed OpenAPI documents in `docs/openapi`: they equal those that the nodes serve, and a
//! breaking change is refused.
//!
//! `make openapi` writes them after a compatible change. A breaking change needs a new path, or,
//! before the first release, that the old document is deleted.

mod breaking_changes;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::TestShop;

use self::breaking_changes::{breaking_changes, entries, operations};

/// If this variable is set, the documents are written instead of compared.
const UPDATE: &str = "SHOP_UPDATE_OPENAPI";

fn file(node: Node) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi");
    folder.join(format!("{}.json", node.name()))
}

#[tokio::test]
async fn committed_documents_equal_the_code() {
    let shop = TestShop::start().await;
    for node in Node::ALL {
        let served = shop.anonymous().get(node, "/openapi.json").await.expect(200);
        let committed = file(node).exists().then(|| committed(node));
        let breaking = committed.as_ref().map_or(vec![], |old| breaking_changes(old, &served));
        assert!(breaking.is_empty(), "breaking changes of {node:?}: {breaking:#?}");
        if std::env::var_os(UPDATE).is_some() {
            fs::create_dir_all(file(node).parent().unwrap()).unwrap();
            let text = serde_json::to_string_pretty(&served).unwrap();
            fs::write(file(node), text + "\n").unwrap();
        } else {
            let is_equal = committed.as_ref() == Some(&served);
            assert!(is_equal, "docs/openapi differs from the code of {node:?}; run `make openapi`");
        }
    }
    shop.close().await;
}

/// Authentication comes before the path and the body are parsed, so that neither must be valid.
#[tokio::test]
async fn operations_need_a_token_unless_the_document_says_otherwise() {
    let shop = TestShop::start().await;
    for node in Node::ALL {
        for (path, item) in entries(&committed(node)["paths"]) {
            for (method, operation) in operations(item) {
                let url = path.replace(['{', '}'], "");
                let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let response = shop.anonymous().send(verb, node, &url, None).await;
                let is_open = operation["security"] == json!([{}]);
                assert_eq!(response.status == 401, !is_open, "{node:?}: {method} {path}");
            }
        }
    }
    shop.close().await;
}

fn committed(node: Node) -> Value {
    serde_json::from_slice(&fs::read(file(node)).unwrap()).unwrap()
}

#[test]
fn operations_have_unique_ids() {
    for node in Node::ALL {
        let mut ids = BTreeSet::new();
        for (path, item) in entries(&committed(node)["paths"]) {
            for (method, operation) in operations(item) {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(ids.insert(id), "{node:?}: {method} {path} has the id of another");
            }
        }
    }
}

#[test]
fn references_name_components() {
    for node in Node::ALL {
        let document = committed(node);
        let mut values = vec![&document];
        while let Some(value) = values.pop() {
            if let Some(reference) = value["$ref"].as_str() {
                assert!(document.pointer(&reference[1..]).is_some(), "{node:?}: {reference}");
            }
            values.extend(entries(value).map(|(_, value)| value));
            values.extend(value.as_array().into_iter().flatten());
        }
    }
}
