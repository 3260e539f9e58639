//! A TCP proxy before RabbitMQ that counts and breaks connections, and makes a message undecodable.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections to RabbitMQ.
pub struct Proxy {
    pub address: String,
    open: watch::Receiver<usize>,
    generation: watch::Sender<usize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (count, open) = watch::channel(0);
        let (generation, disconnected) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (upstream, count) = (upstream.clone(), count.clone());
                let mut disconnected = disconnected.clone();
                disconnected.mark_unchanged();
                count.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(upstream).await.unwrap();
                    tokio::select! {
                        () = forward(&mut client, &mut server) => {}
                        _ = disconnected.changed() => {}
                    }
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, open, generation, _tasks: tasks }
    }

    /// Breaks all connections.
    pub fn disconnect(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Waits until all connections are closed.
    pub async fn closed(&self) {
        self.open.clone().wait_for(|open| *open == 0).await.unwrap();
    }
}

/// Forwards bytes both ways until one side closes. Replaces the text `undecodable` on its way to
/// the server by bytes that are not UTF-8.
async fn forward(client: &mut TcpStream, server: &mut TcpStream) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let to_rabbitmq = async {
        let mut chunk = vec![0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
            let found = chunk[..length].windows(11).position(|window| window == b"undecodable");
            if let Some(start) = found {
                chunk[start..start + 11].fill(0xff);
            }
            if to_server.write_all(&chunk[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = to_rabbitmq => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
