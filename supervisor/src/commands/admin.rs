//! `shop admin create`: creates an administrator, or gives an existing user the role.

use std::io::{IsTerminal, stdin};

use anyhow::{Context, anyhow, ensure};
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Users;
use shop_persistence::users::{Email, NewUser, Role, Username};
use shop_persistence::{Database, DatabaseServer, InvalidValue};
use shop_runtime::registry::ActorRegistry;

use crate::config::Config;
use crate::embedded::EmbeddedServer;
use crate::nodes::Node;
use crate::shop::databases::{configured_server, open};

/// Creates an administrator of this name, or promotes the user of this name and e-mail address.
/// Works on the database, whether the shop runs or not. Returns a sentence about what was done.
///
/// # Errors
/// When a value is invalid, the name belongs to a user with another e-mail address, or the database
/// cannot be reached.
pub async fn create(config: &Config, username: String, email: String) -> anyhow::Result<String> {
    let embedded =
        if config.embedded.postgres { Some(EmbeddedServer::connect(config).await?) } else { None };
    let server = match &embedded {
        Some(embedded) => DatabaseServer { connections: 2, ..embedded.server().clone() },
        None => configured_server(config, Node::Auth),
    };
    let outcome = async {
        let database = open(config, Node::Auth, &server).await?;
        let outcome = create_or_promote(&database, config, username, email).await;
        database.close().await;
        outcome
    };
    let outcome = outcome.await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    outcome
}

async fn create_or_promote(
    database: &Database,
    config: &Config,
    name: String,
    address: String,
) -> anyhow::Result<String> {
    let invalid = |key: &'static str| move |why: InvalidValue| anyhow!("the {key} {why}");
    let username = Username::parse(name.clone()).map_err(invalid("username"))?;
    let email = Email::parse(address.clone()).map_err(invalid("email"))?;
    let mut users = Users::new(database);
    if let Some(found) = users.find_credentials(name.clone()).await? {
        ensure!(
            found.user.email.to_lowercase() == address.to_lowercase(),
            "the user {name} has another e-mail address; pass the one that the user registered with"
        );
        users.set_role(found.user.id, Role::Admin, None).await?;
        return Ok(format!("{name} is now an administrator; the password is unchanged"));
    }
    let password = Password::parse(read_password()?).map_err(invalid("password"))?;
    let passwords = Passwords::start(&ActorRegistry::new("admin"), 1, config.auth.bcrypt_cost, 1)?;
    let password_hash = passwords.hash(password).await?;
    users.register(NewUser { username, email, password_hash, role: Role::Admin }, None).await?;
    Ok(format!("{name} is now an administrator"))
}

/// Reads without echo from a terminal, else the first line of standard input.
fn read_password() -> anyhow::Result<String> {
    if stdin().is_terminal() {
        return Ok(rpassword::prompt_password("Password: ")?);
    }
    let mut line = String::new();
    stdin().read_line(&mut line).context("cannot read the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
