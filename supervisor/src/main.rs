//! `shop`: runs a shop or one of its nodes, compares and repairs their books, deals with dead letters, makes administrators.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use secrecy::ExposeSecret;
use shop_supervisor::config::Format;
use shop_supervisor::{Config, Node, Shop, admin, dead_letters, log, resync, telemetry, verify};
use tokio::signal::unix::{SignalKind, signal};

/// Requests take and give back much memory, in small pieces: with the system's allocator that was a fifth of their time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An online shop's back end: three nodes of supervised actors, in one process or in many.
#[derive(Debug, Parser)]
#[command(name = "shop", version)]
struct Arguments {
    /// The configuration; without it `config.toml` of the working directory, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs all three nodes, or one.
    Run {
        /// The one node to run.
        node: Option<Node>,
    },
    /// Compares the books of the three nodes: prints a table, and every difference in a line of its own. Ends with 1 when
    /// there is one, and with 2 when a database cannot be reached. Changes nothing, and works whether the shop runs or not.
    Verify,
    /// Has a node's copies of users, products and sales made anew from their source, by the node that runs.
    Resync {
        /// The one node whose copies; without it, catalog and order.
        node: Option<Copier>,
    },
    /// Administrators.
    #[command(subcommand)]
    Admin(Admin),
    /// Messages that could not be applied.
    DeadLetters {
        /// The one node to look at.
        #[arg(long, global = true)]
        node: Option<Node>,
        #[command(subcommand)]
        command: dead_letters::Command,
    },
}

#[derive(Debug, Subcommand)]
enum Admin {
    /// Makes an administrator, or makes one of the user of that name. Asks for the password, or reads it from
    /// standard input.
    Create {
        /// The name to sign in with.
        #[arg(long)]
        username: String,
        /// The address.
        #[arg(long)]
        email: String,
    },
}

/// A node that has copies.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Copier {
    Catalog,
    Order,
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(arguments: Arguments) -> anyhow::Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let here = Path::new("config.toml");
    let file = arguments.config.as_deref().or_else(|| here.exists().then_some(here));
    let config = Config::read(file, std::env::vars())?;
    match arguments.command.unwrap_or(Command::Run { node: None }) {
        Command::Run { node: None } => run(&config, &Node::ALL).await,
        Command::Run { node: Some(node) } => run(&config, &[node]).await,
        Command::Verify => Ok(verify(&config).await),
        Command::Resync { node } => {
            let nodes: &[Node] = match node {
                Some(Copier::Catalog) => &[Node::Catalog],
                Some(Copier::Order) => &[Node::Order],
                None => &[Node::Catalog, Node::Order],
            };
            resync::resync(&config, nodes, |line| println!("{line}")).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Admin(Admin::Create { username, email }) => {
            println!("{}", admin::create(&config, username, email).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::DeadLetters { node, command } => {
            let nodes = node.map_or(Node::ALL.to_vec(), |node| vec![node]);
            println!("{}", dead_letters::run(&config, &nodes, command).await?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn verify(config: &Config) -> ExitCode {
    match verify::verify(config, verify::PATIENCE).await {
        Ok(ledger) => {
            print!("{ledger}");
            ExitCode::from(u8::from(!ledger.balanced))
        }
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(config: &Config, nodes: &[Node]) -> anyhow::Result<ExitCode> {
    let _exporting = telemetry::start(&config.telemetry, nodes)?;
    log::start(&config.log)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut signal = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut starting = pin!(Shop::start(config, nodes));
    let mut shop = tokio::select! {
        shop = &mut starting => shop?,
        // What is half started cannot be stopped in good order; a second signal ends it all the same.
        () = signal() => tokio::select! {
            shop = starting => {
                shop?.stop().await;
                return Ok(ExitCode::SUCCESS);
            }
            () = signal() => return Ok(ExitCode::FAILURE),
        },
    };
    announce(config, &shop);
    tokio::select! {
        () = signal() => {}
        () = shop.ended() => {
            tracing::error!("an actor died too often; the shop ends");
            shop.stop().await;
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("stopping; a second signal ends at once");
    tokio::select! {
        _ = shop.stop() => Ok(ExitCode::SUCCESS),
        () = signal() => Ok(ExitCode::FAILURE),
    }
}

/// Says what runs and where, for a person to use.
fn announce(config: &Config, shop: &Shop) {
    let admin = &config.auth.admin.username;
    if config.log.format == Format::Json {
        for (node, address) in &shop.addresses {
            tracing::info!(node = node.name(), %address, "listening");
        }
        if let Some(password) = &shop.made_up_password {
            let password = password.expose_secret();
            tracing::info!(
                admin,
                password,
                "made the first administrator; this password is shown once"
            );
        }
        return;
    }
    println!("shop {} is running; Ctrl-C stops it.\n", env!("CARGO_PKG_VERSION"));
    for (node, address) in &shop.addresses {
        println!("  {:<14} http://{address:<22} docs http://{address}/docs", node.name());
    }
    println!();
    if shop.address(Node::Auth).is_some() {
        match &shop.made_up_password {
            Some(password) => {
                let password = password.expose_secret();
                println!("  administrator  {admin}, password {password} (made up, shown only now)");
            }
            None => println!("  administrator  {admin}, unless others were made"),
        }
    }
    match &shop.home {
        Some(home) if home.moved() => println!(
            "  data           {} (PostgreSQL's user cannot enter {})",
            home.folder().display(),
            config.embedded.directory.display()
        ),
        Some(home) => println!("  data           {}", home.folder().display()),
        None => {
            for (node, _) in &shop.addresses {
                let database = node.database(config);
                println!(
                    "  data           {} at {}:{}",
                    database.name, database.host, database.port
                );
            }
        }
    }
    match config.embedded.broker {
        true => println!("  broker         in this process"),
        false => {
            println!(
                "  broker         RabbitMQ at {}:{}",
                config.rabbitmq.host, config.rabbitmq.port
            );
        }
    }
    println!();
}
