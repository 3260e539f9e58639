//! Request bodies, which report every invalid field at once, and path and query values.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, ValueKind, ValuePointerRef,
};
use serde::Serialize;
use serde_json::Value;
use shop_persistence::{FieldError, InvalidValue};

use crate::context::RequestContext;
use crate::problem::Failure;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// A JSON body: of a request a valid `T`, of a response any value.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: Deserr<ValidationErrors>> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Failure> {
        require_json(request.headers())?;
        parse(&read_body(request, state).await?).map(Json)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A JSON body of a request that may be missing, which means `{}`.
#[derive(Debug)]
pub struct JsonOrEmpty<T>(pub T);

impl<S: Send + Sync, T: Deserr<ValidationErrors>> FromRequest<S> for JsonOrEmpty<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<JsonOrEmpty<T>, Failure> {
        let is_json = require_json(request.headers());
        let body = read_body(request, state).await?;
        if body.is_empty() {
            return parse(b"{}").map(JsonOrEmpty);
        }
        is_json?;
        parse(&body).map(JsonOrEmpty)
    }
}

/// A request without a body.
#[derive(Debug)]
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Failure;

    async fn from_request(_: Request, _: &S) -> Result<NoBody, Failure> {
        Ok(NoBody)
    }
}

/// Reads the whole body, within the limits of size and time.
///
/// # Errors
/// 413 for a body that is too large, 408 for one that arrives too slowly.
pub async fn read_body(mut request: Request, state: &(impl Send + Sync)) -> Result<Bytes, Failure> {
    let limit = RequestContext::of(request.extensions())?.limits.body_bytes;
    DefaultBodyLimit::max(limit).apply(&mut request);
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
        Ok(body) => Ok(body?),
        Err(_) => {
            let detail = "the body did not arrive in time; send it again";
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

/// Checks that the `Content-Type` is `application/json` or `application/…+json`.
fn require_json(headers: &HeaderMap) -> Result<(), Failure> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let essence = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        let detail = "send the body as JSON, with Content-Type: application/json";
        Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
    }
}

fn parse<T: Deserr<ValidationErrors>>(body: &[u8]) -> Result<T, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))
    })?;
    deserr::deserialize(value).map_err(|ValidationErrors(errors)| Failure::invalid_body(errors))
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Failure {
        let detail = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large; send less",
            _ => "the body ended early; send it again",
        };
        Failure::new(rejection.status(), detail)
    }
}

/// The values in a path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Failure))]
pub struct Path<T>(pub T);

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Failure {
        let detail = format!("a value in the path cannot be read: {}", rejection.body_text());
        Failure::new(StatusCode::BAD_REQUEST, detail)
    }
}

/// The values in a query.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failure))]
pub struct Query<T>(pub T);

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Failure {
        let detail = format!("a query value cannot be read: {}", rejection.body_text());
        Failure::new(StatusCode::BAD_REQUEST, detail)
    }
}

/// The invalid fields of a body, collected while it is parsed.
#[derive(Debug)]
pub struct ValidationErrors(Vec<FieldError>);

impl ValidationErrors {
    fn push(errors: Option<Self>, field: String, detail: String) -> ControlFlow<Self, Self> {
        let mut errors = errors.map(|ValidationErrors(errors)| errors).unwrap_or_default();
        errors.push(FieldError { field: field.into(), detail });
        ControlFlow::Continue(ValidationErrors(errors))
    }
}

impl MergeWithError<ValidationErrors> for ValidationErrors {
    fn merge(
        errors: Option<Self>,
        ValidationErrors(more): ValidationErrors,
        _: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        let mut errors = errors.map(|ValidationErrors(errors)| errors).unwrap_or_default();
        errors.extend(more);
        ControlFlow::Continue(ValidationErrors(errors))
    }
}

impl MergeWithError<InvalidValue> for ValidationErrors {
    fn merge(
        errors: Option<Self>,
        invalid: InvalidValue,
        at: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        ValidationErrors::push(errors, path(at), invalid.to_string())
    }
}

/// For values that are always valid.
impl MergeWithError<Infallible> for ValidationErrors {
    fn merge(
        _: Option<Self>,
        never: Infallible,
        _: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        match never {}
    }
}

impl DeserializeError for ValidationErrors {
    fn error<V: IntoValue>(
        errors: Option<Self>,
        error: ErrorKind<'_, V>,
        at: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        let (at, detail) = match error {
            ErrorKind::IncorrectValueKind { accepted, .. } => {
                (path(at), expected(accepted).to_owned())
            }
            ErrorKind::MissingField { field } => {
                (path(at.push_key(field)), "is required".to_owned())
            }
            ErrorKind::UnknownKey { key, .. } => (path(at.push_key(key)), "is unknown".to_owned()),
            ErrorKind::UnknownValue { accepted, .. } => {
                (path(at), format!("must be one of {}", accepted.join(", ")))
            }
            ErrorKind::BadSequenceLen { expected, .. } => {
                (path(at), format!("must have {expected} elements"))
            }
            ErrorKind::Unexpected { msg } => (path(at), msg),
        };
        ValidationErrors::push(errors, at, detail)
    }
}

fn expected(accepted: &[ValueKind]) -> &'static str {
    match accepted.first() {
        Some(ValueKind::Integer | ValueKind::NegativeInteger) => "must be a whole number",
        Some(ValueKind::String) => "must be a string",
        Some(ValueKind::Sequence) => "must be an array",
        Some(ValueKind::Map) => "must be an object",
        _ => "is of the wrong type",
    }
}

/// The path of a field: `items[0].quantity`. The body itself is `body`.
fn path(at: ValuePointerRef<'_>) -> String {
    match at {
        ValuePointerRef::Origin => "body".to_owned(),
        ValuePointerRef::Key { key, prev: ValuePointerRef::Origin } => key.to_owned(),
        ValuePointerRef::Key { key, prev } => format!("{}.{key}", path(*prev)),
        ValuePointerRef::Index { index, prev } => format!("{}[{index}]", path(*prev)),
    }
}

/// Parses a UUID.
///
/// # Errors
/// If it is none.
pub fn uuid(text: String) -> Result<uuid::Uuid, InvalidValue> {
    text.parse().map_err(|_| InvalidValue("must be a UUID".into()))
}
