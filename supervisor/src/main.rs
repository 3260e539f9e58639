//! The program `shop`: parses the command line and calls the command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use shop_supervisor::commands::{admin, dead_letters, resync, run, verify};
use shop_supervisor::{Config, Node};

/// Requests allocate many small objects: the system's allocator took a fifth of their time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An online shop's back end: three nodes of supervised actors, in one process or in many.
#[derive(Debug, Parser)]
#[command(name = "shop", version)]
struct Arguments {
    /// Configuration file. Default: `config.toml` in the working directory, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs all nodes, or one.
    Run {
        /// The only node to run.
        node: Option<Node>,
    },
    /// Reconciles the databases of all nodes: prints a table and each difference. Exits with 1 if
    /// there is a difference and with 2 if a database cannot be reached. Changes nothing; works
    /// whether the shop runs or not.
    Verify,
    /// Rebuilds the replicated tables of running nodes from their sources.
    Resync {
        /// The only node to resync. Default: every node that replicates tables.
        node: Option<Node>,
    },
    /// Manages administrators.
    #[command(subcommand)]
    Admin(Admin),
    /// Manages messages that could not be applied.
    DeadLetters {
        /// The only node whose dead letters are used.
        #[arg(long, global = true)]
        node: Option<Node>,
        #[command(subcommand)]
        command: dead_letters::Command,
    },
}

#[derive(Debug, Subcommand)]
enum Admin {
    /// Creates an administrator, or gives the role to the user of that name. Asks for the password,
    /// or reads it from standard input.
    Create {
        /// Name for signing in.
        #[arg(long)]
        username: String,
        /// E-mail address.
        #[arg(long)]
        email: String,
    },
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
    let default_file = Path::new("config.toml");
    let file =
        arguments.config.as_deref().or_else(|| default_file.exists().then_some(default_file));
    let config = Config::read(file, std::env::vars())?;
    match arguments.command.unwrap_or(Command::Run { node: None }) {
        Command::Run { node } => run::run(&config, &one_or(node, Node::ALL.into())).await,
        Command::Verify => Ok(verify(&config).await),
        Command::Resync { node } => {
            let nodes = one_or(node, resync::replicating_nodes());
            resync::resync(&config, &nodes, |line| println!("{line}")).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Admin(Admin::Create { username, email }) => {
            println!("{}", admin::create(&config, username, email).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::DeadLetters { node, command } => {
            let nodes = one_or(node, Node::ALL.into());
            println!("{}", dead_letters::run(&config, &nodes, command).await?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn one_or(node: Option<Node>, all: Vec<Node>) -> Vec<Node> {
    node.map_or(all, |node| vec![node])
}

async fn verify(config: &Config) -> ExitCode {
    match verify::verify(config, verify::TIMEOUT).await {
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
