//! Users that are inserted into the databases directly, with tokens signed like those of the auth
//! node.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use shop_runtime::now;
use sqlx::PgConnection;
use uuid::Uuid;

/// The password of every user.
pub const PASSWORD: &str = "correct horse";

/// The key that signs the tokens.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The bcrypt cost, equal to the shop's default.
pub const COST: u32 = 12;

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

const BUYERS: usize = 64;

/// A user that every node knows.
#[derive(Clone, Debug)]
pub struct User {
    pub id: Uuid,
    pub username: String,
    pub token: String,
    role: &'static str,
}

/// All users of a run.
#[derive(Debug)]
pub struct Users {
    pub buyers: Vec<User>,
    pub admin: User,
    password_hash: String,
}

impl Users {
    /// Generates the users and hashes their common password.
    pub fn generate() -> anyhow::Result<Users> {
        let buyer = |number| User::new(format!("buyer-{number}"), "USER");
        Ok(Users {
            buyers: (0..BUYERS).map(buyer).collect::<Result<_, _>>()?,
            admin: User::new("director".to_owned(), "ADMIN")?,
            password_hash: bcrypt::hash(PASSWORD, COST)?,
        })
    }

    /// Inserts the users into the auth node's database.
    pub async fn insert_users(&self, auth: &mut PgConnection) -> anyhow::Result<()> {
        const INSERT: &str = "
            insert into users (id, username, username_key, email, email_key, password_hash, role)
            select id, name, name, name || '@example.com', name || '@example.com', $4, role
            from unnest($1::uuid[], $2::text[], $3::text[]) as new (id, name, role)";
        self.bind(INSERT).bind(&self.password_hash).execute(auth).await?;
        Ok(())
    }

    /// Inserts the users into the replicated table of another node.
    pub async fn insert_customers(&self, node: &mut PgConnection) -> anyhow::Result<()> {
        const INSERT: &str = "
            insert into customers (id, username, email, role, version, deleted)
            select id, name, name || '@example.com', role, 1, false
            from unnest($1::uuid[], $2::text[], $3::text[]) as new (id, name, role)";
        self.bind(INSERT).execute(node).await?;
        Ok(())
    }

    /// Binds ids, names and roles to `$1`, `$2` and `$3`.
    fn bind(&self, query: &'static str) -> Query {
        let all = || self.buyers.iter().chain([&self.admin]);
        sqlx::query(query)
            .bind(all().map(|user| user.id).collect::<Vec<_>>())
            .bind(all().map(|user| user.username.clone()).collect::<Vec<_>>())
            .bind(all().map(|user| user.role).collect::<Vec<_>>())
    }
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl User {
    fn new(username: String, role: &'static str) -> anyhow::Result<User> {
        let (id, now) = (Uuid::new_v4(), now().as_second());
        let claims = json!({
            "sub": id, "username": username, "role": role, "jti": Uuid::new_v4(),
            "iat": now, "exp": now.saturating_add_unsigned(TOKEN_LIFETIME.as_secs()),
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
        Ok(User { id, username, token, role })
    }
}
