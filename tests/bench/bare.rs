//! The limits: programs that do the one thing and nothing else. Hidden commands of this one, so that each has a process
//! of its own, as the shop's nodes have.

mod hash;
mod list;
mod order;
mod publish;

use std::path::PathBuf;

use axum::Router;
use axum::serve::ListenerExt;
use clap::Subcommand;
pub use publish::Took;
use tokio::net::TcpListener;

/// A limit.
#[derive(Debug, Subcommand)]
pub enum Limit {
    /// Serves the bytes of a file.
    #[command(name = "bare-list", hide = true)]
    List {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        file: PathBuf,
    },
    /// Serves orders with one query.
    #[command(name = "bare-order", hide = true)]
    Order {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        database_port: u16,
        /// How many connections it holds.
        #[arg(long)]
        held: usize,
    },
    /// Hashes passwords.
    #[command(name = "bare-hash", hide = true)]
    Hash {
        #[arg(long)]
        seconds: u64,
    },
    /// Publishes messages to RabbitMQ, each confirmed, and then takes them.
    #[command(name = "bare-publish", hide = true)]
    Publish {
        #[arg(long)]
        broker_port: u16,
        #[arg(long)]
        messages: u64,
    },
}

impl Limit {
    /// Goes on until it is ended, or is done.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Limit::List { port, file } => list::serve(port, &file).await,
            Limit::Order { port, database_port, held } => {
                order::serve(port, database_port, held).await
            }
            Limit::Hash { seconds } => hash::hash(seconds),
            Limit::Publish { broker_port, messages } => {
                publish::publish(broker_port, messages).await
            }
        }
    }
}

/// As the shop listens.
async fn serve(port: u16, app: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listener.tap_io(|stream| {
        stream.set_nodelay(true).ok(); // a connection that is gone already
    });
    Ok(axum::serve(listener, app).await?)
}
