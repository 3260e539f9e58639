//! Who asks: users that are written straight into the databases, with tokens signed as the auth node would.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use shop_runtime::now;
use sqlx::PgConnection;
use uuid::Uuid;

/// The password of everybody.
pub const PASSWORD: &str = "correct horse";

/// What signs the tokens.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How hard a password is to check, as the shop has it by default.
pub const COST: u32 = 12;

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

const BUYERS: usize = 64;

/// Somebody who is known to the shop.
#[derive(Clone, Debug)]
pub struct Person {
    pub id: Uuid,
    pub username: String,
    pub token: String,
    role: &'static str,
}

/// Everybody.
#[derive(Debug)]
pub struct People {
    pub buyers: Vec<Person>,
    pub admin: Person,
    password_hash: String,
}

impl People {
    /// Makes them up, with one password that is hashed as hard as the shop does.
    pub fn make_up() -> anyhow::Result<People> {
        let buyer = |number| Person::new(format!("buyer-{number}"), "USER");
        Ok(People {
            buyers: (0..BUYERS).map(buyer).collect::<Result<_, _>>()?,
            admin: Person::new("director".to_owned(), "ADMIN")?,
            password_hash: bcrypt::hash(PASSWORD, COST)?,
        })
    }

    /// Writes them into the auth node's database.
    pub async fn sign_up(&self, auth: &mut PgConnection) -> anyhow::Result<()> {
        const SIGN_UP: &str = "
            insert into users (id, username, username_key, email, email_key, password_hash, role)
            select id, name, name, name || '@example.com', name || '@example.com', $4, role
            from unnest($1::uuid[], $2::text[], $3::text[]) as person (id, name, role)";
        self.bound(SIGN_UP).bind(&self.password_hash).execute(auth).await?;
        Ok(())
    }

    /// Tells a node that hears of users by event.
    pub async fn introduce(&self, node: &mut PgConnection) -> anyhow::Result<()> {
        const INTRODUCE: &str = "
            insert into customers (id, username, email, role, version, deleted)
            select id, name, name || '@example.com', role, 1, false
            from unnest($1::uuid[], $2::text[], $3::text[]) as person (id, name, role)";
        self.bound(INTRODUCE).execute(node).await?;
        Ok(())
    }

    fn bound(&self, query: &'static str) -> Bound {
        let all = || self.buyers.iter().chain([&self.admin]);
        sqlx::query(query)
            .bind(all().map(|person| person.id).collect::<Vec<_>>())
            .bind(all().map(|person| person.username.clone()).collect::<Vec<_>>())
            .bind(all().map(|person| person.role).collect::<Vec<_>>())
    }
}

type Bound = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl Person {
    fn new(username: String, role: &'static str) -> anyhow::Result<Person> {
        let (id, now) = (Uuid::new_v4(), now().as_second());
        let claims = json!({
            "sub": id, "username": username, "role": role, "jti": Uuid::new_v4(),
            "iat": now, "exp": now.saturating_add_unsigned(TOKEN_LIFETIME.as_secs()),
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
        Ok(Person { id, username, token, role })
    }
}
