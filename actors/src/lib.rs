//! The verbs of the shop: owners, their messages, how to reach them. The only crate, with the supervisor, that knows ractor.

mod addr;
pub mod audit;
mod backoff;
pub mod catalog;
pub mod customers;
pub mod dead_letters;
pub mod idempotency;
pub mod inspector;
pub mod lists;
mod metrics;
pub mod orders;
mod owner;
pub mod passwords;
pub mod pulse;
mod service;
pub mod users;

pub use addr::{Addr, Mailbox, Message, Reply};
pub use backoff::Backoff;
pub use metrics::{Metrics, Readings};
pub use owner::{Handled, Me, Owner, answer, hire};
pub use service::{Service, launch};

use std::sync::Arc;

use shop_persistence::users::{Role, UserId};
use shop_persistence::{Error, Result};

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
