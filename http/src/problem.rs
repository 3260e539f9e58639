//! Failures as clients see them: problem details (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shop_persistence::{Error, FieldError};
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
    errors: Vec<FieldError>,
}

/// What handlers return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failure on its way to the client.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// Whether the same request may well succeed in a moment.
    passing: bool,
}

/// The content type of a failure.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Failure {
    /// A failure of this status; `detail` says what to do about it.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Failure {
        let passing = status == StatusCode::SERVICE_UNAVAILABLE;
        Failure { status, detail: detail.into(), errors: vec![], passing }
    }

    /// A body that breaks these rules.
    pub fn broken(errors: Vec<FieldError>) -> Failure {
        let detail = "the body breaks rules; errors lists them all";
        Failure { errors, ..Failure::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// What an error is to the client.
    pub fn of(error: &Error) -> Failure {
        let status = match error {
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::AlreadyExists(_) | Error::Conflict(_) | Error::RequestInProgress => {
                StatusCode::CONFLICT
            }
            Error::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::Overloaded(_) | Error::Unavailable(_) | Error::Crashed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Invalid(_) | Error::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match error {
            Error::Invalid(errors) => Failure::broken(errors.clone()),
            Error::Internal(_) => Failure::new(
                status,
                "something is wrong here; the log says what, under this request's id",
            ),
            Error::RequestInProgress => {
                Failure { passing: true, ..Failure::new(status, error.to_string()) }
            }
            error => Failure::new(status, error.to_string()),
        }
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it is worth to ask again.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// Its body, JSON.
    pub fn body(self) -> Vec<u8> {
        let Failure { status, detail, errors, .. } = self;
        let title = status.canonical_reason().unwrap_or("Problem").into();
        let problem =
            Problem { kind: "about:blank", title, status: status.as_u16(), detail, errors };
        serde_json::to_vec(&problem).unwrap_or_default() // it holds nothing that is not JSON
    }
}

impl From<shop_runtime::Error> for Failure {
    fn from(error: shop_runtime::Error) -> Failure {
        Failure::from(Error::from(error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if let Error::Internal(bug) = &error {
            tracing::error!(bug, "a request met a bug");
        }
        Failure::of(&error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, passing) = (self.status, self.passing);
        let headers = [(header::CONTENT_TYPE, PROBLEM_JSON)];
        let mut response = (status, headers, self.body()).into_response();
        let mut advise = |name, value| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        if status == StatusCode::UNAUTHORIZED {
            advise(header::WWW_AUTHENTICATE, "Bearer");
        }
        if passing {
            advise(header::RETRY_AFTER, "1");
        }
        response
    }
}
