//! What the shop's actors do: users, catalog, orders and what surrounds them.

pub mod audit;
pub mod catalog;
pub mod change_listener;
pub mod customers;
pub mod dead_letters;
pub mod health;
pub mod idempotency;
mod metrics;
pub mod orders;
pub mod passwords;
pub mod users;

pub use metrics::{Metrics, Readings};

use std::sync::Arc;

use shop_persistence::users::{Role, UserId};
use shop_persistence::{Error, Result};

/// Where the reply to a message goes.
pub type Reply<T> = shop_runtime::Reply<T, Error>;

/// Who asks: a user whose token was good.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub id: UserId,
    /// The name to sign in with.
    pub username: Arc<str>,
    /// What the user may do now.
    pub role: Role,
}

impl Caller {
    /// Only an administrator may.
    pub fn must_be_admin(&self) -> Result<()> {
        match self.role {
            Role::Admin => Ok(()),
            Role::User => Err(Error::Forbidden("only an administrator may do this")),
        }
    }

    /// Only `owner` may, or an administrator.
    pub fn must_be(&self, owner: UserId, otherwise: &'static str) -> Result<()> {
        match self.id == owner || self.role == Role::Admin {
            true => Ok(()),
            false => Err(Error::Forbidden(otherwise)),
        }
    }
}
