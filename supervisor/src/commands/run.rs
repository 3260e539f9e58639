//! `shop run`: runs nodes until a signal or until an actor fails too often.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Format};
use crate::nodes::Node;
use crate::shop::Shop;
use crate::{log, telemetry};

/// Runs these nodes. SIGINT and SIGTERM stop them gracefully; a second signal exits at once.
///
/// # Errors
/// When the shop cannot start.
pub async fn run(config: &Config, nodes: &[Node]) -> anyhow::Result<ExitCode> {
    let _exporter = telemetry::start(&config.telemetry, nodes)?;
    log::start(&config.log)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut signal = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut starting = pin!(Shop::start(config, nodes));
    let mut shop = tokio::select! {
        shop = &mut starting => shop?,
        // A shop that is still starting cannot be stopped gracefully: wait for the start first.
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
            tracing::error!("an actor failed too often; exiting");
            shop.stop().await;
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("stopping; a second signal exits at once");
    tokio::select! {
        _ = shop.stop() => Ok(ExitCode::SUCCESS),
        () = signal() => Ok(ExitCode::FAILURE),
    }
}

/// Announces what runs and where: as log lines for collectors, else as a banner for a person.
fn announce(config: &Config, shop: &Shop) {
    match config.log.format {
        Format::Json => log_addresses(config, shop),
        Format::Text => print_banner(config, shop),
    }
}

fn log_addresses(config: &Config, shop: &Shop) {
    for (node, address) in &shop.addresses {
        tracing::info!(node = node.name(), %address, "listening");
    }
    if let Some(password) = &shop.generated_password {
        let admin = &config.auth.admin.username;
        let password = password.expose_secret();
        tracing::info!(
            admin,
            password,
            "created the first administrator; this password is shown once"
        );
    }
}

fn print_banner(config: &Config, shop: &Shop) {
    println!("shop {} is running; Ctrl-C stops it.\n", env!("CARGO_PKG_VERSION"));
    for (node, address) in &shop.addresses {
        println!("  {:<14} http://{address:<22} docs http://{address}/docs", node.name());
    }
    println!();
    if shop.address(Node::Auth).is_some() {
        let admin = &config.auth.admin.username;
        match &shop.generated_password {
            Some(password) => {
                let password = password.expose_secret();
                println!("  administrator  {admin}, password {password} (generated, shown once)");
            }
            None => println!("  administrator  {admin}, unless others were created"),
        }
    }
    match &shop.data_directory {
        Some(directory) if directory.is_fallback() => println!(
            "  data           {} (PostgreSQL's user cannot enter {})",
            directory.path().display(),
            config.embedded.directory.display()
        ),
        Some(directory) => println!("  data           {}", directory.path().display()),
        None => {
            for (node, _) in &shop.addresses {
                let database = node.settings(config).database;
                let (name, host, port) = (&database.name, &database.host, database.port);
                println!("  data           {name} at {host}:{port}");
            }
        }
    }
    if config.embedded.broker {
        println!("  broker         in this process");
    } else {
        println!("  broker         RabbitMQ at {}:{}", config.rabbitmq.host, config.rabbitmq.port);
    }
    println!();
}
