//! Error responses: problem details (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shop_actors::Error;
use shop_persistence::FieldError;
use utoipa::{ToResponse, ToSchema};

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema, ToResponse)]
#[response(
    description = "The request was not carried out; `detail` says why and what to do.",
    content_type = "application/problem+json"
)]
pub struct Problem {
    /// The kind of problem; `about:blank` has no meaning beyond the status.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status as text.
    #[schema(example = "Unprocessable Entity")]
    title: Cow<'static, str>,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What to do about it.
    #[schema(example = "the body has invalid fields; see errors")]
    detail: Cow<'static, str>,
    /// The invalid fields of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// What handlers return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// An error response.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// Whether the same request may succeed soon.
    is_temporary: bool,
}

/// The content type of an error response.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Failure {
    /// An error response with this status; `detail` says what to do.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Failure {
        let is_temporary = status == StatusCode::SERVICE_UNAVAILABLE;
        Failure { status, detail: detail.into(), errors: vec![], is_temporary }
    }

    /// The response to a body with these invalid fields.
    pub fn invalid_body(errors: Vec<FieldError>) -> Failure {
        let detail = "the body has invalid fields; see errors";
        Failure { errors, ..Failure::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// The response for an error.
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
            Error::Invalid(errors) => Failure::invalid_body(errors.clone()),
            Error::Internal(_) => Failure::new(status, "internal error; quote the request id"),
            Error::RequestInProgress => {
                Failure { is_temporary: true, ..Failure::new(status, error.to_string()) }
            }
            error => Failure::new(status, error.to_string()),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the same request may succeed soon.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The body, as JSON.
    pub fn body(self) -> Vec<u8> {
        let Failure { status, detail, errors, .. } = self;
        let title = status.canonical_reason().unwrap_or("Problem").into();
        let problem =
            Problem { kind: "about:blank", title, status: status.as_u16(), detail, errors };
        serde_json::to_vec(&problem).unwrap_or_default() // every field is valid JSON
    }
}

impl From<shop_runtime::Error> for Failure {
    fn from(error: shop_runtime::Error) -> Failure {
        Failure::from(Error::from(error))
    }
}

impl From<shop_persistence::Error> for Failure {
    fn from(error: shop_persistence::Error) -> Failure {
        Failure::from(Error::from(error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if let Error::Internal(bug) = &error {
            tracing::error!(bug, "internal error");
        }
        Failure::of(&error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, is_temporary) = (self.status, self.is_temporary);
        let headers = [(header::CONTENT_TYPE, PROBLEM_JSON)];
        let mut response = (status, headers, self.body()).into_response();
        let mut insert = |name, value| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        if status == StatusCode::UNAUTHORIZED {
            insert(header::WWW_AUTHENTICATE, "Bearer");
        }
        if is_temporary {
            insert(header::RETRY_AFTER, "1");
        }
        response
    }
}
