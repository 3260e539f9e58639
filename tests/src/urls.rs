//! The URLs of a shop's nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use shop_supervisor::Node;

/// The URLs of the nodes' replicas. Requests take the replicas in turn.
#[derive(Clone, Debug)]
pub struct Urls(Arc<([Vec<String>; Node::ALL.len()], AtomicUsize)>);

impl Urls {
    /// One replica of each node.
    pub fn new(mut url: impl FnMut(Node) -> String) -> Urls {
        Urls::of_replicas(|node| vec![url(node)])
    }

    /// Some replicas of each node.
    pub fn of_replicas(urls: impl FnMut(Node) -> Vec<String>) -> Urls {
        Urls(Arc::new((Node::ALL.map(urls), AtomicUsize::new(0))))
    }

    /// The URL of a node's next replica.
    pub fn next(&self, node: Node) -> &str {
        let (urls, requests) = &*self.0;
        let index = Node::ALL.iter().position(|other| *other == node).expect("a known node");
        &urls[index][requests.fetch_add(1, Relaxed) % urls[index].len()]
    }
}
