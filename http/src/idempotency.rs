//! Idempotency keys: a request that names itself may be repeated, and is done once.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shop_actors::idempotency::{IdempotencyKey, Replayable};
use shop_persistence::idempotency::{Answer, Key};
use shop_persistence::{Error, Result};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::read;
use crate::context::RequestContext;
use crate::problem::{Failure, PROBLEM_JSON};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A key is at most so long.
const LONGEST: usize = 255;

/// The key of a request with this name. Each caller has keys of their own.
fn key(parts: &Parts, name: String, body: &[u8]) -> Result<Key> {
    let RequestContext { caller, idempotency, .. } = RequestContext::of(&parts.extensions)?;
    let caller = caller.as_ref().map_or(Uuid::nil(), |caller| caller.id);
    let mut request = format!("{} {}\n", parts.method, parts.uri.path()).into_bytes();
    request.extend_from_slice(body);
    let fingerprint = idempotency.fingerprints.fingerprint(&request)?;
    Ok(Key { caller, name, fingerprint, retention: idempotency.retention })
}

/// The name that a request gives itself, if any.
fn name(parts: &Parts) -> Result<Option<String>, Failure> {
    let mut values = parts.headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let sane =
        (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    match (value.to_str(), values.next()) {
        (Ok(name), None) if sane => Ok(Some(name.to_owned())),
        _ => {
            let detail = "the header Idempotency-Key must be one text of 1 to 255 visible ASCII \
                          characters, such as a UUID";
            Err(Failure::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// A change that is asked for, and the name that its request gives itself. Behind the caller, whose name it is.
#[derive(Debug)]
pub struct Idempotent<B>(pub Named, pub B);

/// The name that a request gives itself, if any.
#[derive(Debug)]
pub struct Named(Option<Key>);

impl Named {
    /// What its answer is when it succeeds.
    pub fn once(self, success: StatusCode) -> Option<IdempotencyKey> {
        self.0.map(|key| IdempotencyKey { key, success: success.as_u16(), refusal })
    }
}

/// The answer that a refusal is, to be kept. What may go better next time is not, nor is a bug.
fn refusal(error: &Error) -> Option<Answer> {
    let failure = Failure::of(error);
    let status = failure.status();
    let kept = status.is_client_error() && !failure.is_passing();
    kept.then(|| Answer { status: status.as_u16(), body: failure.body() })
}

impl<S: Send + Sync, B: FromRequest<S, Rejection = Failure>> FromRequest<S> for Idempotent<B> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Idempotent<B>, Failure> {
        let (parts, body) = request.into_parts();
        let Some(name) = name(&parts)? else {
            let body = B::from_request(Request::from_parts(parts, body), state).await?;
            return Ok(Idempotent(Named(None), body));
        };
        let bytes = read(Request::from_parts(parts.clone(), body), state).await?;
        let key = key(&parts, name, &bytes)?;
        let request = Request::from_parts(parts, Body::from(bytes));
        Ok(Idempotent(Named(Some(key)), B::from_request(request, state).await?))
    }
}

/// The answer to a change: made now, or as it was made before.
#[derive(Debug)]
pub struct IdempotentResponse<T>(pub StatusCode, pub Replayable<T>);

impl<T: Serialize> IntoResponse for IdempotentResponse<T> {
    fn into_response(self) -> Response {
        match self {
            IdempotentResponse(success, Replayable::New(done)) => {
                (success, Json(done)).into_response()
            }
            IdempotentResponse(_, Replayable::Replay(Answer { status, body })) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                let json = HeaderValue::from_static("application/json");
                let kind = if status.is_success() { json } else { PROBLEM_JSON };
                let headers =
                    [(header::CONTENT_TYPE, kind), (REPLAYED, HeaderValue::from_static("true"))];
                (status, headers, body).into_response()
            }
        }
    }
}

/// The header of a change, for the documentation.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is documentation")]
pub struct KeyHeader {
    /// Names the request, such as a UUID: its repetition by the same caller changes nothing and gets the same
    /// answer, with `Idempotency-Replayed: true`. Kept for a day by default.
    #[param(rename = "Idempotency-Key", required = false, max_length = 255)]
    idempotency_key: Option<String>,
}
