//! The baselines: programs that do one part of the shop's work and nothing else. They are hidden
//! commands of this binary, so that each runs in its own process like a node of the shop.

mod hash;
mod list;
mod order;
mod publish;

use std::path::PathBuf;

use axum::Router;
use axum::serve::ListenerExt;
use clap::Subcommand;
pub use publish::PublishTimes;
use tokio::net::TcpListener;

/// A baseline program.
#[derive(Debug, Subcommand)]
pub enum Baseline {
    /// Serves the bytes of a file.
    #[command(name = "baseline-list", hide = true)]
    List {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        file: PathBuf,
    },
    /// Serves orders with one query each.
    #[command(name = "baseline-order", hide = true)]
    Order {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        database_port: u16,
        /// Number of open database connections.
        #[arg(long)]
        connections: usize,
    },
    /// Verifies passwords.
    #[command(name = "baseline-hash", hide = true)]
    Hash {
        #[arg(long)]
        seconds: u64,
    },
    /// Publishes messages to RabbitMQ with confirms, then consumes them.
    #[command(name = "baseline-publish", hide = true)]
    Publish {
        #[arg(long)]
        broker_port: u16,
        #[arg(long)]
        messages: u64,
    },
}

impl Baseline {
    /// Runs the program. The servers do not return unless they fail.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Baseline::List { port, file } => list::serve(port, &file).await,
            Baseline::Order { port, database_port, connections } => {
                order::serve(port, database_port, connections).await
            }
            Baseline::Hash { seconds } => hash::hash(seconds),
            Baseline::Publish { broker_port, messages } => {
                publish::publish(broker_port, messages).await
            }
        }
    }
}

/// Serves `app` with the socket options of the shop.
async fn serve(port: u16, app: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listener.tap_io(|stream| {
        stream.set_nodelay(true).ok(); // fails only if the connection is closed already
    });
    Ok(axum::serve(listener, app).await?)
}
