//! Why a query failed: reasons that are replies to a caller, and bugs.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use sqlx::error::DatabaseError;

/// The result of a query.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a query did nothing, or did not return what was asked for. All but [`Error::Internal`] are
/// expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such row.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// Another row has the value, which must be unique.
    #[error("the {0} is taken")]
    AlreadyExists(&'static str),
    /// Values break rules: all of them, not only the first.
    #[error("{}", FieldError::list(.0))]
    Invalid(Vec<FieldError>),
    /// The state of the data does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Another transaction has claimed the idempotency key.
    #[error("a request with this idempotency key is in progress")]
    RequestInProgress,
    /// The idempotency key belongs to another request.
    #[error("this idempotency key belongs to another request")]
    KeyReused,
    /// A dependency is unavailable or did not respond in time. Whether the work was done is unknown.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
    /// A bug in the program or in its data.
    #[error("bug: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The error that the violation of a constraint means, by the constraint's name.
    pub(crate) fn on_constraint(
        error: sqlx::Error,
        meaning: impl FnOnce(&str) -> Option<Error>,
    ) -> Error {
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        constraint.and_then(meaning).unwrap_or_else(|| error.into())
    }

    /// One field that breaks a rule.
    pub fn invalid_field(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Error {
        Error::Invalid(vec![FieldError { field: field.into(), detail: detail.into() }])
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let temporary = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => is_temporary(error.as_ref()),
            _ => false,
        };
        if temporary {
            tracing::warn!(%error, "query failed because the database is unavailable");
            return Error::Unavailable("the database is unavailable".into());
        }
        Error::Internal(error.into())
    }
}

/// A failed connection, a database that accepts no sessions at the moment, shutdown, exhausted
/// resources, deadlocks and timeouts: the same statement may succeed later.
/// Source: PostgreSQL, Appendix A, error codes.
fn is_temporary(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    ["08", "28", "3D", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "55000", "55P03"].contains(&code.as_ref())
}

/// A field whose value breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The path of the field.
    #[schema(value_type = String, example = "items[0].quantity")]
    pub field: Cow<'static, str>,
    /// What is wrong with the value, and what is allowed.
    pub detail: String,
}

impl FieldError {
    /// All errors in one line.
    pub fn list(errors: &[FieldError]) -> String {
        let errors: Vec<_> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.detail)).collect();
        errors.join("; ")
    }
}

/// What is wrong with a value, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub Cow<'static, str>);

impl InvalidValue {
    /// Returns the value if it is within the range.
    pub fn unless_within(value: i64, range: RangeInclusive<i64>) -> Result<i64, InvalidValue> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(InvalidValue(format!("must be from {} to {}", range.start(), range.end()).into()))
    }
}
