//! What requests bring: bodies, read with every broken rule at once, and path and query values.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::{HeaderValue, StatusCode, header};
use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, ValueKind, ValuePointerRef,
};
use shop_persistence::{FieldError, InvalidValue};

use crate::context::RequestContext;
use crate::problem::Failure;

/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(15);

/// A body of JSON, as a `T` that keeps all rules.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: Deserr<BrokenRules>> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Failure> {
        if !is_json(&request) {
            let detail = "send JSON, and say so: Content-Type: application/json";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let body = read(request, state).await?;
        let value: serde_json::Value = serde_json::from_slice(&body).map_err(|error| {
            Failure::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))
        })?;
        match deserr::deserialize(value) {
            Ok(value) => Ok(Json(value)),
            Err(BrokenRules(rules)) => Err(Failure::broken(rules)),
        }
    }
}

/// A body of JSON as a `T`; none at all is `{}`.
#[derive(Debug)]
pub struct OrEmpty<T>(pub T);

impl<S: Send + Sync, T: Deserr<BrokenRules>> FromRequest<S> for OrEmpty<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<OrEmpty<T>, Failure> {
        let (parts, body) = request.into_parts();
        let body = read(Request::from_parts(parts.clone(), body), state).await?;
        let mut request = Request::from_parts(parts, Body::from(body.clone()));
        if body.is_empty() {
            request = Request::new(Body::from("{}"));
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        let Json(value) = Json::from_request(request, state).await?;
        Ok(OrEmpty(value))
    }
}

/// A request whose path says all.
#[derive(Debug)]
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Failure;

    async fn from_request(_: Request, _: &S) -> Result<NoBody, Failure> {
        Ok(NoBody)
    }
}

/// The whole body, within the limits of size and time.
pub async fn read(mut request: Request, state: &(impl Send + Sync)) -> Result<Bytes, Failure> {
    // A request that an extractor made of a part of another has no context and no limit.
    if let Ok(context) = RequestContext::of(request.extensions()) {
        DefaultBodyLimit::max(context.limits.body_bytes).apply(&mut request);
    }
    match tokio::time::timeout(BODY_PATIENCE, Bytes::from_request(request, state)).await {
        Ok(body) => Ok(body?),
        Err(_) => {
            let detail = "the body did not arrive in time; send it again";
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

fn is_json(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let essence = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Failure {
        let detail = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large; send less",
            _ => "the body broke off; send it again",
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

/// All rules that a body breaks, gathered while it is read.
#[derive(Debug)]
pub struct BrokenRules(Vec<FieldError>);

impl BrokenRules {
    fn and(known: Option<Self>, field: String, detail: String) -> ControlFlow<Self, Self> {
        let mut rules = known.map(|BrokenRules(rules)| rules).unwrap_or_default();
        rules.push(FieldError { field: field.into(), detail });
        ControlFlow::Continue(BrokenRules(rules))
    }
}

impl MergeWithError<BrokenRules> for BrokenRules {
    fn merge(
        known: Option<Self>,
        BrokenRules(more): BrokenRules,
        _: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        let mut rules = known.map(|BrokenRules(rules)| rules).unwrap_or_default();
        rules.extend(more);
        ControlFlow::Continue(BrokenRules(rules))
    }
}

impl MergeWithError<InvalidValue> for BrokenRules {
    fn merge(
        known: Option<Self>,
        why: InvalidValue,
        at: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        BrokenRules::and(known, path(at), why.to_string())
    }
}

impl DeserializeError for BrokenRules {
    fn error<V: IntoValue>(
        known: Option<Self>,
        error: ErrorKind<'_, V>,
        at: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        let (at, detail) = match error {
            ErrorKind::IncorrectValueKind { accepted, .. } => (path(at), kind(accepted).to_owned()),
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
        BrokenRules::and(known, at, detail)
    }
}

/// What is accepted, in words.
fn kind(accepted: &[ValueKind]) -> &'static str {
    match accepted.first() {
        Some(ValueKind::Integer | ValueKind::NegativeInteger) => "must be a whole number",
        Some(ValueKind::String) => "must be a string",
        Some(ValueKind::Sequence) => "must be an array",
        Some(ValueKind::Map) => "must be an object",
        _ => "is of the wrong type",
    }
}

/// `items[0].quantity`; the body itself is `body`.
fn path(at: ValuePointerRef<'_>) -> String {
    match at {
        ValuePointerRef::Origin => "body".to_owned(),
        ValuePointerRef::Key { key, prev: ValuePointerRef::Origin } => key.to_owned(),
        ValuePointerRef::Key { key, prev } => format!("{}.{key}", path(*prev)),
        ValuePointerRef::Index { index, prev } => format!("{}[{index}]", path(*prev)),
    }
}

/// Reads a UUID.
pub fn uuid(text: String) -> Result<uuid::Uuid, InvalidValue> {
    text.parse().map_err(|_| InvalidValue("must be a UUID".into()))
}

/// For values that cannot break a rule.
impl MergeWithError<Infallible> for BrokenRules {
    fn merge(
        _: Option<Self>,
        never: Infallible,
        _: ValuePointerRef<'_>,
    ) -> ControlFlow<Self, Self> {
        match never {}
    }
}
