//! The auth node: users, passwords and tokens.
//!
//! ```text
//! auth
//! ├── users/0..n       users
//! ├── users_admin/0    a shard of users for administrators, available while the others are overloaded
//! ├── dead_letters/0   none: this node consumes no events
//! ├── audit/0          what administrators did
//! ├── health/0         queries the database
//! ├── broker           restarts the rest for one
//! │   ├── connection   detects whether the broker is available
//! │   └── relay        outbox → broker
//! ├── sweeper          deletes expired idempotency keys
//! └── http             /api/v1/auth · /api/v1/users
//! ```

use std::thread;

use anyhow::{Context, anyhow};
use secrecy::{ExposeSecret, SecretString};
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Users;
use shop_http::{Api, Auth, Authenticator, Keys};
use shop_persistence::users::{Email, NewUser, Role, Username};
use shop_persistence::{Database, InvalidValue, Schema};
use shop_runtime::Child;

use super::context::{flatten, restart_only};
use super::{NodeContext, NodeSettings, NodeSpec, PreparedNode};
use crate::config::{Admin, Config};

pub(super) static SPEC: NodeSpec = NodeSpec {
    name: "auth",
    schema: Schema::Auth,
    replicates: false,
    settings: |config| NodeSettings {
        shards: config.auth.shards,
        database: &config.auth.database,
        http: &config.auth.http,
        cluster_url: &config.cluster.auth_url,
        auth_url: "",
    },
    prepare: |node, config| Box::pin(prepare(node, config)),
    subscribers: |_| (vec![], vec![]),
};

async fn prepare(node: NodeContext, config: &Config) -> anyhow::Result<PreparedNode> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let capacity = config.mailboxes.passwords;
    let passwords =
        Passwords::start(&node.actors.registry, threads, config.auth.bcrypt_cost, capacity)?;
    let generated_password =
        create_first_admin(&config.auth.admin, &node.actors.database, &passwords).await?;
    let prepared = PreparedNode::new(move || children(&node, &passwords));
    Ok(PreparedNode { generated_password, ..prepared })
}

fn children(node: &NodeContext, passwords: &Passwords) -> anyhow::Result<Vec<Child>> {
    let capacity = node.mailboxes.users;
    let (users, user_shards) = node.actors.shards("users", node.shards, capacity, Users::new);
    let (users_admin, admin_shard) = node.actors.shards("users_admin", 1, capacity, Users::new);
    let Keys { user_tokens: tokens, node_tokens, .. } = node.keys.clone();
    let authenticator =
        Authenticator::local(tokens.clone(), users.clone(), users_admin, node_tokens);
    let (common, common_actors) = node.common(vec![]);
    let api = Api::Auth(Auth { users, passwords: passwords.clone(), tokens });
    let services =
        vec![node.broker(&common), node.sweeper(), node.http_server(api, authenticator, &common)?];
    Ok(flatten([user_shards, restart_only(admin_shard), common_actors, services]))
}

/// Creates the first administrator, unless there is one. Returns the password if it was generated.
async fn create_first_admin(
    admin: &Admin,
    database: &Database,
    passwords: &Passwords,
) -> anyhow::Result<Option<SecretString>> {
    let mut users = Users::new(database);
    if users.has_admin().await? {
        return Ok(None);
    }
    let generated = match admin.password.expose_secret() {
        "" => Some(SecretString::from(generate_password())),
        _ => None,
    };
    let password = generated.as_ref().unwrap_or(&admin.password).expose_secret().to_owned();
    let invalid = |key: &'static str| move |why: InvalidValue| anyhow!("auth.admin.{key} {why}");
    let password = Password::parse(password).map_err(invalid("password"))?;
    let new = NewUser {
        username: Username::parse(admin.username.clone()).map_err(invalid("username"))?,
        email: Email::parse(admin.email.clone()).map_err(invalid("email"))?,
        password_hash: passwords.hash(password).await?,
        role: Role::Admin,
    };
    let created = users.register_first_admin(new).await.context(
        "there is no administrator yet, and none could be created (auth.admin.*); \
         shop admin create makes one of any user",
    )?;
    Ok(generated.filter(|_| created))
}

/// 20 characters without those that look alike: more than 110 bits of entropy.
fn generate_password() -> String {
    const CHARACTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let character = |_| char::from(CHARACTERS[rand::random_range(0..CHARACTERS.len())]);
    (0..20).map(character).collect()
}
