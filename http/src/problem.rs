//! Failures as clients see them: problem details (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shop_persistence::{BrokenRule, Error};
use utoipa::{ToResponse, ToSchema};

/// What went wrong, and what to do about it (RFC 9457).
#[derive(Debug, Serialize, ToSchema, ToResponse)]
#[response(
    description = "It was not done: the status and the detail say why, and what to do",
    content_type = "application/problem+json"
)]
pub struct Problem {
    /// What kind of problem; `about:blank` says that the status tells it all.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    title: Cow<'static, str>,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What to do about it.
    #[schema(example = "the body breaks rules; errors lists them all")]
    detail: Cow<'static, str>,
    /// Every rule that the body breaks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<BrokenRule>,
}

/// What handlers return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failure on its way to the client.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<BrokenRule>,
}

impl Failure {
    /// A failure of this status; `detail` says what to do about it.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Failure {
        Failure { status, detail: detail.into(), errors: vec![] }
    }

    /// A body that breaks these rules.
    pub fn broken(errors: Vec<BrokenRule>) -> Failure {
        let detail = "the body breaks rules; errors lists them all".into();
        Failure { status: StatusCode::UNPROCESSABLE_ENTITY, detail, errors }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match &error {
            Error::Missing(_) => StatusCode::NOT_FOUND,
            Error::Taken(_) | Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::Overloaded(_) | Error::Away(_) | Error::Crashed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Broken(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Bug(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match error {
            Error::Broken(errors) => Failure::broken(errors),
            Error::Bug(bug) => {
                tracing::error!(bug, "a request met a bug");
                Failure::new(
                    status,
                    "something is wrong here; the log says what, under this request's id",
                )
            }
            error => Failure::new(status, error.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure { status, detail, errors } = self;
        let title = status.canonical_reason().unwrap_or("Problem").into();
        let problem =
            Problem { kind: "about:blank", title, status: status.as_u16(), detail, errors };
        let advice: Option<(HeaderName, &'static str)> = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        let mut response = (status, axum::Json(problem)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some((name, value)) = advice {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
