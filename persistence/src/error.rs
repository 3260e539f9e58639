//! What can go wrong: failures that are answers, and bugs, which are not.

use std::borrow::Cow;

use sqlx::error::DatabaseError;

/// The result of a query, of an owner's method, of an ask.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done. All but [`Error::Internal`] are answers that the asker can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A value that must be unique belongs to somebody else.
    #[error("this {0} is taken; choose another")]
    AlreadyExists(&'static str),
    /// What was sent breaks rules: all of them, not the first alone.
    #[error("{}", FieldError::list(.0))]
    Invalid(Vec<FieldError>),
    /// The state of things forbids it.
    #[error("{0}")]
    Conflict(String),
    /// The same request is being worked on already.
    #[error(
        "a request with this Idempotency-Key is being worked on; ask for its answer in a moment"
    )]
    RequestInProgress,
    /// Another request has this name.
    #[error("this Idempotency-Key belongs to another request; choose a new one")]
    KeyReused,
    /// Nobody, or somebody whose credentials are not good (any more).
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Somebody, but not one who may do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// More is asked than can be done; the work was refused, not queued.
    #[error("too much is asked of the {0} now; try again in a moment")]
    Overloaded(Cow<'static, str>),
    /// Something this depends on is away, or did not answer in time. Whether the work was done is
    /// unknown.
    #[error("{0}; try again in a moment")]
    Unavailable(Cow<'static, str>),
    /// The owner met a bug while at it and was replaced by a fresh one. Whether the work was done
    /// is unknown.
    #[error("the {0} had to start afresh; try again in a moment")]
    Crashed(&'static str),
    /// Nobody foresaw this. It is logged and it ends its owner; it is never shown to a client.
    #[error("bug: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Something is wrong with the program or its data, so whoever met it starts afresh.
    pub fn is_internal(&self) -> bool {
        matches!(self, Error::Internal(_))
    }

    /// The same, for another who waits for the same.
    pub fn share(&self) -> Error {
        match self {
            Error::NotFound(what) => Error::NotFound(what),
            Error::Unauthenticated(why) => Error::Unauthenticated(why),
            Error::Overloaded(what) => Error::Overloaded(what.clone()),
            Error::Unavailable(what) => Error::Unavailable(what.clone()),
            Error::Crashed(what) => Error::Crashed(what),
            error => Error::Internal(error.to_string().into()),
        }
    }

    /// The answer that the violation of a constraint stands for, by the constraint's name.
    pub(crate) fn on_constraint(
        error: sqlx::Error,
        answer: impl FnOnce(&str) -> Option<Error>,
    ) -> Error {
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        constraint.and_then(answer).unwrap_or_else(|| error.into())
    }

    /// One broken rule, of one field.
    pub fn invalid_field(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Error {
        Error::Invalid(vec![FieldError { field: field.into(), detail: detail.into() }])
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let away = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => passes_by_itself(error.as_ref()),
            _ => false,
        };
        if away {
            tracing::warn!(error = %error, "the database did not do its work");
            return Error::Unavailable("the database is away".into());
        }
        Error::Internal(error.into())
    }
}

/// Connection trouble, a database that lets nobody in (now), shutdown, exhausted resources,
/// deadlocks and time limits: the same statement may succeed later. Source: PostgreSQL, Appendix A,
/// error codes.
fn passes_by_itself(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    ["08", "28", "3D", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "55000", "55P03"].contains(&code.as_ref())
}

/// A rule that a request breaks: which field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The path of the field in the body.
    #[schema(value_type = String, example = "items[0].quantity")]
    pub field: Cow<'static, str>,
    /// What is wrong with it, and what is allowed.
    pub detail: String,
}

impl FieldError {
    fn list(rules: &[FieldError]) -> String {
        let rules: Vec<_> =
            rules.iter().map(|rule| format!("{}: {}", rule.field, rule.detail)).collect();
        rules.join("; ")
    }
}

/// What is wrong with a value, in words that say what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub Cow<'static, str>);

impl InvalidValue {
    /// The value, if it lies within the range.
    pub fn unless_within(
        value: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, InvalidValue> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(InvalidValue(format!("must be from {} to {}", range.start(), range.end()).into()))
    }
}

impl From<shop_runtime::Error> for Error {
    fn from(error: shop_runtime::Error) -> Error {
        use shop_runtime::Error as Runtime;
        match error {
            Runtime::Overloaded(actor) => Error::Overloaded(actor.into()),
            Runtime::Unavailable(why) => Error::Unavailable(why),
            Runtime::Crashed(actor) => Error::Crashed(actor),
            Runtime::NotFound => Error::NotFound("actor"),
            Runtime::NotAllowed(why) => Error::Conflict(why),
        }
    }
}

impl shop_runtime::ReplyError for Error {
    fn is_internal(&self) -> bool {
        Error::is_internal(self)
    }
}
