//! Verification of user tokens: on the auth node by its users, on the other nodes by the auth node.

use std::sync::Arc;
use std::time::Duration;

use deserr::Deserr;
use foldhash::fast::RandomState;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use shop_actors::{Caller, customers, users};
use shop_actors::{Error, Result};
use shop_persistence::users::{Role, User, UserId};
use shop_runtime::{Addr, now};
use utoipa::ToSchema;

use crate::body::ValidationErrors;
use crate::client::send;
use crate::keys::{Claims, EXPIRED, UserTokenKey};

/// How long the auth node may take to verify a token.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of cached tokens.
const MAX_CACHED_TOKENS: u64 = 100_000;

const STALE: Error =
    Error::Unauthenticated("this token's user is gone or has changed; sign in again");

/// Verifies a token by the auth node's users.
///
/// # Errors
/// [`Error::Unauthenticated`] if the token is not valid, or temporary errors of the users actor.
pub async fn verify(
    tokens: &UserTokenKey,
    users: &Addr<users::Msg>,
    token: &str,
) -> Result<Caller> {
    let claims = tokens.read(token)?;
    match users.ask(claims.sub, |reply| users::Msg::Find(claims.sub, reply)).await {
        Err(Error::NotFound(_)) => Err(STALE),
        user => caller(&claims, user?),
    }
}

/// The user of a token. A token that claims a higher role than the user has is stale; one that
/// claims a lower role is valid, and the user's role applies.
fn caller(claims: &Claims, user: User) -> Result<Caller> {
    if claims.role == Role::Admin && user.role != Role::Admin {
        return Err(STALE);
    }
    Ok(Caller { id: user.id, username: user.username.into(), role: user.role })
}

/// A verified token.
#[derive(Debug, Clone)]
struct Verified {
    caller: Caller,
    /// When the token expires, in seconds since 1970.
    expires_at: i64,
}

/// Verifies tokens by asking the auth node: each token once per cache time, with one request in
/// flight per token.
#[derive(Debug, Clone)]
pub struct RemoteVerifier {
    tokens: Arc<UserTokenKey>,
    client: reqwest::Client,
    verify_url: String,
    /// By the token's text, so that a cached token is not even decoded.
    verified: Cache<String, Verified, RandomState>,
    customers: Addr<customers::Msg>,
}

impl RemoteVerifier {
    /// Asks the auth node at `auth_url` and caches its answers for `cache_time`. While it is
    /// unavailable, the node's own copy of the user decides, which `customers` has.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(
        tokens: Arc<UserTokenKey>,
        auth_url: &str,
        cache_time: Duration,
        customers: Addr<customers::Msg>,
    ) -> reqwest::Result<RemoteVerifier> {
        let client = reqwest::Client::builder()
            .timeout(VERIFY_TIMEOUT)
            .connect_timeout(VERIFY_TIMEOUT / 2)
            .no_proxy()
            .build()?;
        let verified = Cache::builder()
            .max_capacity(MAX_CACHED_TOKENS)
            .time_to_live(cache_time)
            .support_invalidation_closures()
            .build_with_hasher(RandomState::default());
        let verify_url = format!("{}/api/v1/auth/verify", auth_url.trim_end_matches('/'));
        Ok(RemoteVerifier { tokens, client, verify_url, verified, customers })
    }

    /// The key of the tokens.
    pub fn tokens(&self) -> &UserTokenKey {
        &self.tokens
    }

    /// The user with this token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the token is not valid; [`Error::Unavailable`] if neither the
    /// auth node nor the own copy of the user can tell.
    pub async fn verify(&self, token: &str) -> Result<Caller> {
        let verified = match self.verified.get(token).await {
            Some(verified) => verified,
            // Rare and large: boxed, so that the futures of other requests stay small.
            None => Box::pin(self.verify_once(token)).await?,
        };
        if verified.expires_at > now().as_second() { Ok(verified.caller) } else { Err(EXPIRED) }
    }

    /// Verifies a token that is not cached. Concurrent requests with it wait for one answer.
    async fn verify_once(&self, token: &str) -> Result<Verified> {
        let verify = async {
            let claims = self.tokens.read(token)?; // only a signed token is sent to the auth node
            let caller = self.ask(token, &claims).await?;
            Ok(Verified { caller, expires_at: claims.exp })
        };
        let verified = self.verified.try_get_with_by_ref(token, verify).await;
        verified.map_err(|error: Arc<Error>| error.share())
    }

    async fn ask(&self, token: &str, claims: &Claims) -> Result<Caller> {
        let body = VerifyRequest { token: token.to_owned() };
        let request = self.client.post(&self.verify_url).json(&body);
        let response = async {
            send(request, "POST /api/v1/auth/verify").await?.error_for_status()?.json().await
        };
        match response.await {
            Ok(VerifyResponse {
                user_id: Some(id),
                username: Some(username),
                role: Some(role),
                ..
            }) => Ok(Caller { id, username: username.into(), role }),
            Ok(_) => Err(STALE),
            Err(error) => {
                tracing::warn!(%error, "the auth node does not verify tokens; using the copy of its users");
                self.verify_by_copy(claims).await
            }
        }
    }

    /// Without the auth node, a valid signature and this node's copy of the user decide.
    async fn verify_by_copy(&self, claims: &Claims) -> Result<Caller> {
        let id = claims.sub;
        match self.customers.ask(id, |reply| customers::Msg::Find(id, reply)).await? {
            Some(customer) if customer.deleted => Err(STALE),
            Some(customer) => caller(claims, customer.user),
            None => Err(Error::Unavailable(
                "the auth node is unavailable, and this node has no copy of the user".into(),
            )),
        }
    }

    /// Evicts the tokens of a user.
    pub fn evict(&self, user: UserId) {
        drop(self.verified.invalidate_entries_if(move |_, verified| verified.caller.id == user));
    }

    /// Evicts all tokens.
    pub fn evict_all(&self) {
        self.verified.invalidate_all();
    }
}

/// A token to verify.
#[derive(Debug, Serialize, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
pub struct VerifyRequest {
    /// The access token.
    pub token: String,
}

/// Whether a token is valid, and whose it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct VerifyResponse {
    /// Whether the token is valid now.
    pub valid: bool,
    /// The user's id; null if the token is not valid, as are the other fields.
    #[schema(value_type = Option<Uuid>)]
    pub user_id: Option<UserId>,
    /// The user's current role.
    pub role: Option<Role>,
    /// The user's current name.
    pub username: Option<String>,
}

impl VerifyResponse {
    /// The response for the outcome of a verification.
    ///
    /// # Errors
    /// Temporary errors of the verification.
    pub fn of(verified: Result<Caller>) -> Result<VerifyResponse> {
        match verified {
            Ok(Caller { id, username, role }) => {
                let (user_id, role, username) = (Some(id), Some(role), Some(username.to_string()));
                Ok(VerifyResponse { valid: true, user_id, role, username })
            }
            Err(Error::Unauthenticated(_)) => {
                Ok(VerifyResponse { valid: false, user_id: None, role: None, username: None })
            }
            Err(error) => Err(error),
        }
    }
}
