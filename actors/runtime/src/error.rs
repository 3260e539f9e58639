//! Errors of the runtime itself.

use std::borrow::Cow;

/// The result of an ask.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a message was not answered, or an administrator's action not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The mailbox is full. The message was refused and nothing was done.
    #[error("the {0} is overloaded; try again in a moment")]
    Overloaded(&'static str),
    /// The actor takes no messages, or did not answer within the timeout. Whether the work was done is unknown.
    #[error("{0}; try again in a moment")]
    Unavailable(Cow<'static, str>),
    /// The actor failed while it handled the message. Whether the work was done is unknown.
    #[error("the {0} restarted; try again in a moment")]
    Crashed(&'static str),
    /// No actor is registered at this path.
    #[error("no such actor")]
    NotFound,
    /// The actor's state does not allow this action.
    #[error("{0}")]
    NotAllowed(String),
}

/// An error that a handler can reply with.
pub trait ReplyError: From<Error> + std::error::Error + Send + Sync + 'static {
    /// A bug: instead of being sent as a reply it fails the actor.
    fn is_internal(&self) -> bool;
}

impl ReplyError for Error {
    fn is_internal(&self) -> bool {
        false
    }
}
