//! `shop admin create`: makes an administrator, or makes one of a user.

use std::io::{IsTerminal, stdin};

use anyhow::{Context, anyhow, ensure};
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Users;
use shop_persistence::users::{Email, NewUser, Role, Username};
use shop_persistence::{Database, DatabaseServer, InvalidValue};
use shop_runtime::registry::ActorRegistry;

use crate::config::Config;
use crate::embedded::{Home, Postgres};
use crate::shop::{EmbeddedPostgres, Node, cluster, open};

/// Makes an administrator of this name, or promotes the user who has it. Works on the database, whether the shop
/// runs or not. Says what was done.
///
/// # Errors
/// When a value breaks a rule, the name belongs to a user of another address, or the database cannot be reached.
pub async fn create(config: &Config, username: String, email: String) -> anyhow::Result<String> {
    let embedded = match config.embedded.postgres {
        false => None,
        true => Some(Reached::reach(config).await?),
    };
    let cluster = match &embedded {
        Some(reached) => DatabaseServer { connections: 2, ..reached.cluster().clone() },
        None => cluster(config, Node::Auth, None),
    };
    let outcome = async {
        let database = open(&cluster, Node::Auth, config).await?;
        let outcome = make(&database, config, username, email).await;
        database.close().await;
        outcome
    };
    let outcome = outcome.await;
    if let Some(Reached::Started(postgres)) = embedded {
        postgres.stop().await;
    }
    outcome
}

/// The embedded PostgreSQL: of the shop that runs, or started for the occasion.
pub(crate) enum Reached {
    Running(DatabaseServer),
    Started(EmbeddedPostgres),
}

impl Reached {
    pub(crate) async fn reach(config: &Config) -> anyhow::Result<Reached> {
        let home = Home::choose(&config.embedded.directory)?;
        match Postgres::running(&home.postgres())? {
            Some((socket, port)) => Ok(Reached::Running(EmbeddedPostgres::cluster(&socket, port)?)),
            None => Ok(Reached::Started(EmbeddedPostgres::start(config, &home).await?)),
        }
    }

    pub(crate) fn cluster(&self) -> &DatabaseServer {
        match self {
            Reached::Running(cluster) => cluster,
            Reached::Started(postgres) => &postgres.cluster,
        }
    }
}

async fn make(
    database: &Database,
    config: &Config,
    name: String,
    address: String,
) -> anyhow::Result<String> {
    let wrong = |key: &'static str| move |why: InvalidValue| anyhow!("the {key} {why}");
    let username = Username::parse(name.clone()).map_err(wrong("username"))?;
    let email = Email::parse(address.clone()).map_err(wrong("email"))?;
    let mut users = Users::new(database);
    if let Some(found) = users.find_credentials(name.clone()).await? {
        let same = found.user.email.to_lowercase() == address.to_lowercase();
        ensure!(same, "the user {name} has another address; give the one that it signed up with");
        users.set_role(found.user.id, Role::Admin, None).await?;
        return Ok(format!("{name} is an administrator now; the password stays as it was"));
    }
    let password = Password::parse(ask_password()?).map_err(wrong("password"))?;
    let passwords = Passwords::start(&ActorRegistry::new("admin"), 1, config.auth.bcrypt_cost, 1)?;
    let password_hash = passwords.hash(password).await?;
    users.register(NewUser { username, email, password_hash, role: Role::Admin }, None).await?;
    Ok(format!("{name} is an administrator now"))
}

/// Typed without echo on a terminal, else the first line of standard input.
fn ask_password() -> anyhow::Result<String> {
    if stdin().is_terminal() {
        return Ok(rpassword::prompt_password("Password: ")?);
    }
    let mut line = String::new();
    stdin().read_line(&mut line).context("cannot read the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
