//! The context of a request. The server puts it into the request's extensions before the handler
//! runs; extractors read it there, so that they do not import the server.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;
use shop_actors::Caller;
use shop_actors::Error;

use crate::keys::FingerprintKey;
use crate::problem::Failure;

/// What is known of a request before its handler runs.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The request id, as in the response's `X-Request-Id` and in log lines.
    pub id: Arc<str>,
    /// The authenticated user; `None` where anyone may call, and for another node.
    pub caller: Option<Caller>,
    /// The server's limits.
    pub limits: Limits,
    /// How repeated requests are recognised.
    pub idempotency: Idempotency,
}

impl RequestContext {
    /// The context among a request's extensions.
    ///
    /// # Errors
    /// [`Error::Internal`] if the request did not pass through the server's middleware.
    pub fn of(extensions: &Extensions) -> Result<&RequestContext, Error> {
        extensions.get().ok_or_else(|| Error::Internal("the request has no context".into()))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RequestContext, Failure> {
        Ok(RequestContext::of(&parts.extensions)?.clone())
    }
}

/// The user who sent the request, on routes whose access rule requires one.
#[derive(Debug)]
pub struct Authenticated(pub Caller);

impl<S: Sync> FromRequestParts<S> for Authenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Authenticated, Failure> {
        let caller = RequestContext::of(&parts.extensions)?.caller.clone();
        let missing = || Error::Internal("the route's access rule requires no user".into());
        Ok(Authenticated(caller.ok_or_else(missing)?))
    }
}

/// The limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum size of a request body, in bytes.
    pub body_bytes: usize,
    /// The maximum number of API requests in flight; more are refused. Health, metrics and the
    /// administrators' routes do not count.
    pub in_flight: usize,
}

/// How requests with an `Idempotency-Key` are recognised, and how long their responses are stored.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Tells requests from each other.
    pub fingerprints: Arc<FingerprintKey>,
    /// How long a response is stored.
    pub retention: Duration,
}
