//! The shop's actors and their messages. Each actor runs its queries on a database session of its own.

pub mod audit;
pub mod catalog;
pub mod change_listener;
pub mod customers;
pub mod dead_letters;
mod error;
pub mod health;
pub mod idempotency;
mod metrics;
pub mod orders;
pub mod passwords;
pub mod subscriptions;
pub mod users;

pub use error::{Error, Result};
pub use metrics::{Metrics, Readings};

use std::sync::Arc;

use serde::Serialize;
use shop_persistence::users::{Role, UserId};
use utoipa::ToSchema;

/// Where an actor sends the reply to a message.
pub type Reply<T> = shop_runtime::Reply<T, Error>;

/// The authenticated user on whose behalf a message is sent.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's id.
    pub id: UserId,
    /// The user's name.
    pub username: Arc<str>,
    /// The role that applies: the lower of the token's and the user's current one.
    pub role: Role,
}

impl Caller {
    /// Checks ownership: only this user or an administrator may continue.
    ///
    /// # Errors
    /// [`Error::Forbidden`] with this message for anyone else.
    pub fn must_be(&self, owner: UserId, message: &'static str) -> Result<()> {
        if self.id == owner || self.role == Role::Admin {
            Ok(())
        } else {
            Err(Error::Forbidden(message))
        }
    }
}

/// A confirmation in words, where there is nothing else to return.
#[derive(Debug, Serialize, ToSchema)]
pub struct Confirmation {
    /// What was done.
    #[schema(example = "the user is deleted")]
    pub message: &'static str,
}
