//! Why an actor did not do what a message asks.

use std::borrow::Cow;

use shop_persistence::{Error as QueryError, FieldError};

/// The result of a message.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a message had no effect. All but [`Error::Internal`] are replies that its sender can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A value that must be unique is taken.
    #[error("this {0} is taken; choose another")]
    AlreadyExists(&'static str),
    /// Values break rules: all of them, not only the first.
    #[error("{}", FieldError::list(.0))]
    Invalid(Vec<FieldError>),
    /// The current state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The same request is in progress.
    #[error("a request with this Idempotency-Key is in progress; repeat it in a moment")]
    RequestInProgress,
    /// The idempotency key belongs to another request.
    #[error("this Idempotency-Key belongs to another request; choose a new one")]
    KeyReused,
    /// There are no valid credentials.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A queue is full. Nothing was done.
    #[error("the {0} is overloaded; try again in a moment")]
    Overloaded(Cow<'static, str>),
    /// A dependency is unavailable or did not respond in time. Whether the work was done is unknown.
    #[error("{0}; try again in a moment")]
    Unavailable(Cow<'static, str>),
    /// The actor failed while it handled the message. Whether the work was done is unknown.
    #[error("the {0} restarted; try again in a moment")]
    Crashed(&'static str),
    /// A bug. It is logged, it fails the actor, and clients never see its text.
    #[error("bug: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The same error, for another caller that waits for the same result.
    pub fn share(&self) -> Error {
        match self {
            Error::NotFound(what) => Error::NotFound(what),
            Error::Unauthenticated(why) => Error::Unauthenticated(why),
            Error::Overloaded(what) => Error::Overloaded(what.clone()),
            Error::Unavailable(why) => Error::Unavailable(why.clone()),
            Error::Crashed(what) => Error::Crashed(what),
            error => Error::Internal(error.to_string().into()),
        }
    }

    /// One field that breaks a rule.
    pub fn invalid_field(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Error {
        QueryError::invalid_field(field, detail).into()
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Error {
        match error {
            QueryError::NotFound(what) => Error::NotFound(what),
            QueryError::AlreadyExists(what) => Error::AlreadyExists(what),
            QueryError::Invalid(errors) => Error::Invalid(errors),
            QueryError::Conflict(why) => Error::Conflict(why),
            QueryError::RequestInProgress => Error::RequestInProgress,
            QueryError::KeyReused => Error::KeyReused,
            QueryError::Unavailable(why) => Error::Unavailable(why),
            QueryError::Internal(bug) => Error::Internal(bug),
        }
    }
}

impl From<shop_runtime::Error> for Error {
    fn from(error: shop_runtime::Error) -> Error {
        use shop_runtime::Error as RuntimeError;
        match error {
            RuntimeError::Overloaded(actor) => Error::Overloaded(actor.into()),
            RuntimeError::Unavailable(why) => Error::Unavailable(why),
            RuntimeError::Crashed(actor) => Error::Crashed(actor),
            RuntimeError::NotFound => Error::NotFound("actor"),
            RuntimeError::NotAllowed(why) => Error::Conflict(why),
        }
    }
}

impl shop_runtime::ReplyError for Error {
    fn is_internal(&self) -> bool {
        matches!(self, Error::Internal(_))
    }
}
