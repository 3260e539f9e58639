//! Idempotency keys: a request with an `Idempotency-Key` may be repeated and is carried out once.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shop_actors::idempotency::{IdempotencyKey, Replayable};
use shop_actors::{Error, Result};
use shop_persistence::idempotency::{Key, StoredResponse};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::{Json, read_body};
use crate::context::RequestContext;
use crate::problem::{Failure, PROBLEM_JSON};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The maximum length of a key, in bytes.
const MAX_KEY_LEN: usize = 255;

/// The body of a request that changes something, and its idempotency key.
#[derive(Debug)]
pub struct Idempotent<B>(pub RequestKey, pub B);

/// The idempotency key of a request, if it has one.
#[derive(Debug)]
pub struct RequestKey(Option<Key>);

impl RequestKey {
    /// The key for the actor that carries out the request. `success` is the status of its response.
    pub fn with_success(self, success: StatusCode) -> Option<IdempotencyKey> {
        self.0.map(|key| IdempotencyKey { key, success: success.as_u16(), refusal })
    }
}

impl<S: Send + Sync, B: FromRequest<S, Rejection = Failure>> FromRequest<S> for Idempotent<B> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Idempotent<B>, Failure> {
        let (parts, body) = request.into_parts();
        let Some(name) = header_value(&parts)? else {
            let body = B::from_request(Request::from_parts(parts, body), state).await?;
            return Ok(Idempotent(RequestKey(None), body));
        };
        let bytes = read_body(Request::from_parts(parts.clone(), body), state).await?;
        let key = key(&parts, name, &bytes)?;
        let request = Request::from_parts(parts, Body::from(bytes));
        Ok(Idempotent(RequestKey(Some(key)), B::from_request(request, state).await?))
    }
}

/// The value of the header, if there is one.
fn header_value(parts: &Parts) -> Result<Option<String>, Failure> {
    let mut values = parts.headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_valid = (1..=MAX_KEY_LEN).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic);
    match (value.to_str(), values.next()) {
        (Ok(name), None) if is_valid => Ok(Some(name.to_owned())),
        _ => {
            let detail = "the header Idempotency-Key must be one value of 1 to 255 visible ASCII \
                          characters, such as a UUID";
            Err(Failure::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// The key of a request. Each caller has keys of their own.
fn key(parts: &Parts, name: String, body: &[u8]) -> Result<Key> {
    let RequestContext { caller, idempotency, .. } = RequestContext::of(&parts.extensions)?;
    let caller = caller.as_ref().map_or(Uuid::nil(), |caller| caller.id);
    let mut request = format!("{} {}\n", parts.method, parts.uri.path()).into_bytes();
    request.extend_from_slice(body);
    let fingerprint = idempotency.fingerprints.fingerprint(&request)?;
    Ok(Key { caller, name, fingerprint, retention: idempotency.retention })
}

/// The response to store for an error; none for temporary errors and bugs.
fn refusal(error: &Error) -> Option<StoredResponse> {
    let failure = Failure::of(error);
    let status = failure.status();
    let is_final = status.is_client_error() && !failure.is_temporary();
    is_final.then(|| StoredResponse { status: status.as_u16(), body: failure.body() })
}

/// The response to a request that changes something: a new one, or the stored one of the first
/// request with the same key. A new one has this status.
#[derive(Debug)]
pub struct IdempotentResponse<T>(pub StatusCode, pub Replayable<T>);

impl<T: Serialize> IntoResponse for IdempotentResponse<T> {
    fn into_response(self) -> Response {
        match self {
            IdempotentResponse(success, Replayable::New(value)) => {
                (success, Json(value)).into_response()
            }
            IdempotentResponse(_, Replayable::Replay(StoredResponse { status, body })) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                let json = HeaderValue::from_static("application/json");
                let content_type = if status.is_success() { json } else { PROBLEM_JSON };
                let replayed = HeaderValue::from_static("true");
                let headers = [(header::CONTENT_TYPE, content_type), (REPLAYED, replayed)];
                (status, headers, body).into_response()
            }
        }
    }
}

/// The header in the OpenAPI document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is documentation")]
pub struct KeyHeader {
    /// Identifies the request, for example a UUID. A repeated request of the same caller changes
    /// nothing and gets the first response, with `Idempotency-Replayed: true`. Responses are stored
    /// for a day by default.
    #[param(rename = "Idempotency-Key", required = false, max_length = 255)]
    idempotency_key: Option<String>,
}
