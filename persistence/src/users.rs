//! The auth node's users: names, roles and password hashes.

use email_address::{EmailAddress, Options};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

pub use crate::ids::UserId;
use crate::pages::PageRequest;
use crate::{Error, InvalidValue, Result};

/// The role of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[sqlx(type_name = "text", rename_all = "UPPERCASE")]
pub enum Role {
    /// Orders for itself.
    User,
    /// Administers the shop.
    Admin,
}

impl Role {
    /// Parses the name of a role.
    pub fn parse(name: String) -> Result<Role, InvalidValue> {
        match name.as_str() {
            "USER" => Ok(Role::User),
            "ADMIN" => Ok(Role::Admin),
            _ => Err(InvalidValue("must be USER or ADMIN".into())),
        }
    }
}

/// A user, without the password hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, FromRow, ToSchema)]
pub struct User {
    /// Identifies the user, on every node.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    /// The name for signing in, unique in any case.
    #[schema(example = "anna")]
    pub username: String,
    /// The address, unique in any case.
    #[schema(example = "anna@example.com")]
    pub email: String,
    /// The role.
    pub role: Role,
}

/// A name for signing in: 3 to 64 characters, no spaces or control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username(String);

impl Username {
    /// Parses a username.
    pub fn parse(text: String) -> Result<Username, InvalidValue> {
        let length = text.chars().count();
        if !(3..=64).contains(&length) {
            return Err(InvalidValue("must be 3 to 64 characters long".into()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(InvalidValue("must not contain spaces or control characters".into()));
        }
        Ok(Username(text))
    }
}

/// An email address of at most 254 characters (RFC 5321, 4.5.3.1.3), on a domain with at least one
/// dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Parses an address.
    pub fn parse(text: String) -> Result<Email, InvalidValue> {
        if text.chars().count() > 254 {
            return Err(InvalidValue("must be at most 254 characters long".into()));
        }
        let plain =
            Options::default().with_required_tld().without_display_text().without_domain_literal();
        match EmailAddress::parse_with_options(&text, plain) {
            Ok(_) if !text.chars().any(char::is_control) => Ok(Email(text)),
            _ => Err(InvalidValue("must be an email address such as anna@example.com".into())),
        }
    }
}

/// The form in which names and addresses are compared. Lower case alone is not enough: `STRASSE`
/// equals `straße`, and a sigma at the end of a word has a lower case of its own.
fn fold(text: &str) -> String {
    text.to_lowercase().to_uppercase().to_lowercase()
}

/// A user to add.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name for signing in.
    pub username: Username,
    /// The address.
    pub email: Email,
    /// The bcrypt hash of the password.
    pub password_hash: String,
    /// The role.
    pub role: Role,
}

/// A change of a user's profile. A field that is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// The new name.
    pub username: Option<Username>,
    /// The new address.
    pub email: Option<Email>,
}

impl Profile {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.username.is_none() && self.email.is_none()
    }
}

/// A user and the password hash.
#[derive(Debug, FromRow)]
pub struct Credentials {
    /// The user.
    #[sqlx(flatten)]
    pub user: User,
    /// The bcrypt hash of the password.
    pub password_hash: String,
}

/// A user and its version.
#[derive(Debug, FromRow)]
pub struct Versioned {
    /// The user.
    #[sqlx(flatten)]
    pub user: User,
    /// Grows with every change.
    pub version: i64,
}

fn already_exists(error: sqlx::Error) -> Error {
    Error::on_constraint(error, |constraint| match constraint {
        "users_username_key" => Some(Error::AlreadyExists("username")),
        "users_email_key" => Some(Error::AlreadyExists("email")),
        _ => None,
    })
}

const INSERT: &str = "
    insert into users (id, username, username_key, email, email_key, password_hash, role)
    values ($1, $2, $3, $4, $5, $6, $7)
    returning id, username, email, role, version";

/// Adds a user.
pub async fn insert(tx: &mut PgConnection, new: &NewUser) -> Result<Versioned> {
    sqlx::query_as(INSERT)
        .bind(Uuid::now_v7()) // ascending in time
        .bind(&new.username.0)
        .bind(fold(&new.username.0))
        .bind(&new.email.0)
        .bind(fold(&new.email.0))
        .bind(&new.password_hash)
        .bind(new.role)
        .fetch_one(tx)
        .await
        .map_err(already_exists)
}

const FIND: &str = "select id, username, email, role from users where id = $1";

/// Finds a user.
pub async fn find(connection: &mut PgConnection, id: UserId) -> Result<User> {
    let user = sqlx::query_as(FIND).bind(id).fetch_optional(connection).await?;
    user.ok_or(Error::NotFound("user"))
}

const FIND_CREDENTIALS: &str = "
    select id, username, email, role, password_hash from users where username_key = $1";

/// Finds a user and the password hash by name, in any case.
pub async fn find_credentials(
    connection: &mut PgConnection,
    username: &str,
) -> Result<Option<Credentials>> {
    if username.contains('\0') {
        return Ok(None); // PostgreSQL accepts no such text
    }
    let found = sqlx::query_as(FIND_CREDENTIALS).bind(fold(username)).fetch_optional(connection);
    Ok(found.await?)
}

const LIST: &str = "
    select id, username, email, role from users where id > $1 order by id limit $2";

/// Users in the order of registration.
pub async fn list(connection: &mut PgConnection, page: PageRequest<UserId>) -> Result<Vec<User>> {
    let list = sqlx::query_as(LIST).bind(page.after.unwrap_or(Uuid::nil())).bind(page.limit);
    Ok(list.fetch_all(connection).await?)
}

const UPDATE: &str = "
    update users
    set username = coalesce($2, username), username_key = coalesce($3, username_key),
        email = coalesce($4, email), email_key = coalesce($5, email_key),
        version = version + 1
    where id = $1
    returning id, username, email, role, version";

/// Changes a user's name or address.
pub async fn update(tx: &mut PgConnection, id: UserId, profile: &Profile) -> Result<Versioned> {
    let Profile { username, email } = profile;
    let updated = sqlx::query_as(UPDATE)
        .bind(id)
        .bind(username.as_ref().map(|username| &username.0))
        .bind(username.as_ref().map(|username| fold(&username.0)))
        .bind(email.as_ref().map(|email| &email.0))
        .bind(email.as_ref().map(|email| fold(&email.0)))
        .fetch_optional(tx)
        .await
        .map_err(already_exists)?;
    updated.ok_or(Error::NotFound("user"))
}

const LIST_ADMINS: &str = "select id from users where role = 'ADMIN'";

/// Locks the set of administrators until the transaction ends, and returns them. One advisory lock
/// protects the set: with row locks, two transactions that each demote the administrator that the
/// other waits for would deadlock.
pub async fn lock_admins(tx: &mut PgConnection) -> Result<Vec<UserId>> {
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtext('shop.admins'))")
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query_scalar(LIST_ADMINS).fetch_all(tx).await?)
}

const HAS_ADMIN: &str = "select exists (select from users where role = 'ADMIN')";

/// Whether there is an administrator.
pub async fn has_admin(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar(HAS_ADMIN).fetch_one(connection).await?)
}

/// Serialises the transactions that decide whether a first administrator is needed.
pub async fn lock_first_admin(tx: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtext('shop.first_admin'))").execute(tx).await?;
    Ok(())
}

const SET_ROLE: &str = "
    update users set role = $2, version = version + 1 where id = $1
    returning id, username, email, role, version";

/// Changes a user's role.
pub async fn set_role(tx: &mut PgConnection, id: UserId, role: Role) -> Result<Versioned> {
    let updated = sqlx::query_as(SET_ROLE).bind(id).bind(role).fetch_optional(tx).await?;
    updated.ok_or(Error::NotFound("user"))
}

const DELETE: &str = "delete from users where id = $1 returning version + 1";

/// Deletes a user. Returns the version of the deletion.
pub async fn delete(tx: &mut PgConnection, id: UserId) -> Result<i64> {
    let version = sqlx::query_scalar(DELETE).bind(id).fetch_optional(tx).await?;
    version.ok_or(Error::NotFound("user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_has_3_to_64_characters_and_no_spaces() {
        for good in ["bob", "Анна-Мария", &"ы".repeat(64), "a_b.c@d"] {
            assert!(Username::parse(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "ab", &"x".repeat(65), "a b", " abc", "a\u{a0}bc", "abc\0", "abc\u{7f}"] {
            assert!(Username::parse(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn upper_and_lower_case_of_every_character_are_equal() {
        for c in char::MIN..=char::MAX {
            let (lower, upper) = (c.to_lowercase().to_string(), c.to_uppercase().to_string());
            assert!(fold(&lower) == fold(&c.to_string()) && fold(&upper) == fold(&lower), "{c}");
        }
        for (name, same) in [("Анна", "АННА"), ("straße", "STRASSE"), ("σίσυφοσ", "ΣΊΣΥΦΟΣ")]
        {
            assert_eq!(fold(name), fold(same));
        }
    }

    #[test]
    fn an_email_is_a_valid_address() {
        for good in ["a@example.com", "anna.b+shop@mail.example.org", "анна@пример.рф"]
        {
            assert!(Email::parse(good.into()).is_ok(), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in ["", "a", "a@", "@b.c", "a b@c.de", "a@b", "a@@b.de", "Anna <a@b.de>", &long] {
            assert!(Email::parse(bad.into()).is_err(), "{bad}");
        }
    }
}
