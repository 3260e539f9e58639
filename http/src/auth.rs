//! Callers: whose token a request brings, and whether it is good.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use deserr::Deserr;
use foldhash::fast::RandomState;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use shop_actors::{Caller, customers, users};
use shop_persistence::users::{Role, User, UserId};
use shop_persistence::{Error, Result};
use shop_runtime::{Addr, now};
use tokio::sync::broadcast;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::body::BrokenRules;
use crate::client::send;
use crate::keys::{Claims, EXPIRED, NodeTokenKey, UserTokenKey};
use crate::problem::Failure;
use crate::server::RequestContext;

/// How long the auth node may take to verify a token.
const VERIFY_PATIENCE: Duration = Duration::from_secs(2);

/// At most so many verified tokens are remembered.
const MOST_REMEMBERED: u64 = 100_000;

const SIGN_IN: Error =
    Error::Unauthenticated("send the token that login gave you: Authorization: Bearer <token>");

const STALE: Error =
    Error::Unauthenticated("this token's user is gone or has changed; sign in again");

/// How long an administrator who was let in may look on while nobody can be asked: a database that is away is a reason
/// to look.
const LOOKS_ON: Duration = Duration::from_secs(900);

/// How long such a one waits to be asked for all the same.
const GLANCE: Duration = Duration::from_millis(250);

/// Decides whose token is good.
#[derive(Debug, Clone)]
pub struct Authenticator {
    keeper: TokenVerifier,
    node_tokens: Arc<NodeTokenKey>,
    /// Administrators who were let in lately, by their tokens.
    lately: Cache<Uuid, Caller>,
}

/// Who is asked about tokens.
#[derive(Debug, Clone)]
enum TokenVerifier {
    /// The auth node's: it knows its users. Those who run the shop are asked for at an owner of its own, which answers
    /// while the others refuse.
    Own(Arc<UserTokenKey>, Addr<users::Msg>, Addr<users::Msg>),
    /// Another node's: it asks the auth node.
    RemoteVerifier(RemoteVerifier),
}

impl Authenticator {
    /// The auth node's gate: it asks the owner of users, and for those who run the shop another one, which answers while
    /// the first refuses.
    pub fn own(
        tokens: Arc<UserTokenKey>,
        users: Addr<users::Msg>,
        users_admin: Addr<users::Msg>,
        node_tokens: Arc<NodeTokenKey>,
    ) -> Authenticator {
        let keeper = TokenVerifier::Own(tokens, users, users_admin);
        Authenticator { keeper, node_tokens, lately: lately() }
    }

    /// Another node's gate: it asks the auth node.
    pub fn remote(remote: RemoteVerifier, node_tokens: Arc<NodeTokenKey>) -> Authenticator {
        let lately = remote.admins.clone();
        Authenticator { keeper: TokenVerifier::RemoteVerifier(remote), node_tokens, lately }
    }

    fn tokens(&self) -> &UserTokenKey {
        match &self.keeper {
            TokenVerifier::Own(tokens, ..) => tokens,
            TokenVerifier::RemoteVerifier(remote) => &remote.tokens,
        }
    }

    /// Who brings this token, unless it is not good (any more).
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        match &self.keeper {
            TokenVerifier::Own(tokens, users, _) => verify(tokens, users, token).await,
            TokenVerifier::RemoteVerifier(remote) => remote.authenticate(token).await,
        }
    }

    /// The administrator who brings this token; also while all else is refused. To look on, who was let in lately need
    /// not wait for those who cannot tell now.
    pub async fn authenticate_admin(&self, token: &str, looks_on: bool) -> Result<Caller> {
        let id = self.tokens().read(token)?.jti;
        let asked = async {
            match &self.keeper {
                TokenVerifier::Own(tokens, _, users_admin) => {
                    verify(tokens, users_admin, token).await
                }
                TokenVerifier::RemoteVerifier(remote) => remote.authenticate(token).await,
            }
        };
        let lately = if looks_on { self.lately.get(&id).await } else { None };
        let asked = match lately {
            None => asked.await,
            Some(caller) => match tokio::time::timeout(GLANCE, asked).await {
                Err(_)
                | Ok(Err(Error::Unavailable(_) | Error::Overloaded(_) | Error::Crashed(_))) => {
                    return Ok(caller);
                }
                Ok(asked) => asked,
            },
        };
        let admitted = asked.and_then(|caller| caller.must_be_admin().map(|()| caller));
        match &admitted {
            Ok(caller) => self.lately.insert(id, caller.clone()).await,
            Err(_) => self.lately.invalidate(&id).await,
        }
        admitted
    }

    /// Whether this token is another node's.
    fn is_of_node(&self, token: &str) -> bool {
        self.node_tokens.accepts(token)
    }
}

fn lately() -> Cache<Uuid, Caller> {
    let lately = Cache::builder().max_capacity(1000).time_to_live(LOOKS_ON);
    lately.support_invalidation_closures().build()
}

/// What the owner of users says of a token.
pub async fn verify(
    tokens: &UserTokenKey,
    users: &Addr<users::Msg>,
    token: &str,
) -> Result<Caller> {
    let claims = tokens.read(token)?;
    let found = users.ask(claims.sub, |reply| users::Msg::Find(claims.sub, reply)).await;
    match found {
        Err(Error::NotFound(_)) => Err(STALE),
        user => authenticate(&claims, user?),
    }
}

/// A token that claims more than its user may do now is stale. One that claims less is not: the role is the user's.
fn authenticate(claims: &Claims, user: User) -> Result<Caller> {
    if claims.role == Role::Admin && user.role != Role::Admin {
        return Err(STALE);
    }
    Ok(Caller { id: user.id, username: user.username.into(), role: user.role })
}

/// What is remembered of a token that was good.
#[derive(Debug, Clone)]
struct Verified {
    caller: Caller,
    /// In seconds since 1970.
    ends_at: i64,
}

/// How a node that is not the auth node verifies tokens: each once per cache time, one request in flight per token.
#[derive(Debug, Clone)]
pub struct RemoteVerifier {
    tokens: Arc<UserTokenKey>,
    client: reqwest::Client,
    verify_url: String,
    /// By their texts: one that was verified is not even read again.
    verified: Cache<String, Verified, RandomState>,
    /// Administrators who were let in lately.
    admins: Cache<Uuid, Caller>,
    customers: Addr<customers::Msg>,
}

impl RemoteVerifier {
    /// Asks the auth node at `auth_url`, and believes it for `cache_time`. With auth away, `customers` says
    /// what was heard of a user. What a user's token is worth is asked anew when that user `changed`.
    pub fn new(
        tokens: Arc<UserTokenKey>,
        auth_url: &str,
        cache_time: Duration,
        customers: Addr<customers::Msg>,
        mut changed: broadcast::Receiver<UserId>,
    ) -> reqwest::Result<RemoteVerifier> {
        let client = reqwest::Client::builder()
            .timeout(VERIFY_PATIENCE)
            .connect_timeout(VERIFY_PATIENCE / 2)
            .no_proxy()
            .build()?;
        let verified: Cache<String, Verified, RandomState> = Cache::builder()
            .max_capacity(MOST_REMEMBERED)
            .time_to_live(cache_time)
            .support_invalidation_closures()
            .build_with_hasher(RandomState::default());
        let admins = lately();
        let forgetting = (verified.clone(), admins.clone());
        tokio::spawn(async move {
            let (verified, admins) = forgetting;
            loop {
                match changed.recv().await {
                    Ok(id) => {
                        drop(verified.invalidate_entries_if(move |_, it| it.caller.id == id));
                        drop(admins.invalidate_entries_if(move |_, caller| caller.id == id));
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        verified.invalidate_all();
                        admins.invalidate_all();
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let verify_url = format!("{}/api/v1/auth/verify", auth_url.trim_end_matches('/'));
        Ok(RemoteVerifier { tokens, client, verify_url, verified, admins, customers })
    }

    async fn authenticate(&self, token: &str) -> Result<Caller> {
        let verified = match self.verified.get(token).await {
            Some(verified) => verified,
            // Rare, and large: apart, it is no burden to the requests that need none of it.
            None => Box::pin(self.verify_once(token)).await?,
        };
        match verified.ends_at > now().as_second() {
            true => Ok(verified.caller),
            false => Err(EXPIRED),
        }
    }

    /// Whoever brings the same token meanwhile waits for the same answer.
    async fn verify_once(&self, token: &str) -> Result<Verified> {
        let verify = async {
            let claims = self.tokens.read(token)?; // garbage never leaves the node
            let caller = self.verify(token, &claims).await?;
            Ok(Verified { caller, ends_at: claims.exp })
        };
        let verified = self.verified.try_get_with_by_ref(token, verify).await;
        verified.map_err(|error: Arc<Error>| error.share())
    }

    async fn verify(&self, token: &str, claims: &Claims) -> Result<Caller> {
        let request = self.client.post(&self.verify_url).json(&Token { token: token.to_owned() });
        let answer = async {
            send(request, "POST /api/v1/auth/verify")
                .await?
                .error_for_status()?
                .json::<Verdict>()
                .await
        };
        match answer.await {
            Ok(Verdict {
                user_id: Some(id), username: Some(username), role: Some(role), ..
            }) => Ok(Caller { id, username: username.into(), role }),
            Ok(_) => Err(STALE),
            Err(error) => {
                tracing::warn!(%error, "the auth node does not verify tokens; using what was heard of its users");
                self.remember(claims).await
            }
        }
    }

    /// With auth away, a good signature and what this node has heard of the user must do.
    async fn remember(&self, claims: &Claims) -> Result<Caller> {
        let id = claims.sub;
        match self.customers.ask(id, |reply| customers::Msg::Find(id, reply)).await? {
            Some(customer) if customer.deleted => Err(STALE),
            Some(customer) => authenticate(claims, customer.user),
            None => Err(Error::Unavailable(
                "the auth node is away, and it has not told of this user".into(),
            )),
        }
    }
}

/// A token to verify.
#[derive(Debug, Serialize, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
pub struct Token {
    /// The token that login gave.
    pub token: String,
}

/// Whether a token is good, and whose it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Whether it is good now.
    pub valid: bool,
    /// Whose it is.
    #[schema(value_type = Option<Uuid>)]
    pub user_id: Option<UserId>,
    /// What that user may do now.
    pub role: Option<Role>,
    /// That user's name now.
    pub username: Option<String>,
}

impl Verdict {
    /// What the gate says of a token.
    pub fn of(admitted: Result<Caller>) -> Result<Verdict> {
        match admitted {
            Ok(Caller { id, username, role }) => {
                let (user_id, role, username) = (Some(id), Some(role), Some(username.to_string()));
                Ok(Verdict { valid: true, user_id, role, username })
            }
            Err(Error::Unauthenticated(_)) => {
                Ok(Verdict { valid: false, user_id: None, role: None, username: None })
            }
            Err(error) => Err(error),
        }
    }
}

/// Who brings a good token; without one the answer is 401.
#[derive(Debug)]
pub struct Authenticated(pub Caller);

impl<S: Sync> FromRequestParts<S> for Authenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Authenticated, Failure> {
        let checks = RequestContext::of(parts)?;
        let token = bearer(parts).ok_or(SIGN_IN)?;
        let caller = checks.authenticator.authenticate(token).await?;
        known(parts, &caller);
        Ok(Authenticated(caller))
    }
}

/// Whoever asks for a change may give it a name, which is theirs.
fn known(parts: &mut Parts, caller: &Caller) {
    if !parts.method.is_safe() {
        parts.extensions.insert(caller.clone());
    }
}

/// An administrator; for anybody else the answer is 403.
#[derive(Debug)]
pub struct Admin(pub Caller);

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Admin, Failure> {
        let checks = RequestContext::of(parts)?;
        let token = bearer(parts).ok_or(SIGN_IN)?;
        let caller = checks.authenticator.authenticate_admin(token, parts.method.is_safe()).await?;
        known(parts, &caller);
        Ok(Admin(caller))
    }
}

/// Another node, or an administrator; for anybody else the answer is 403.
#[derive(Debug)]
pub struct NodeOrAdmin;

impl<S: Sync> FromRequestParts<S> for NodeOrAdmin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<NodeOrAdmin, Failure> {
        let checks = RequestContext::of(parts)?;
        if bearer(parts).is_some_and(|token| checks.authenticator.is_of_node(token)) {
            return Ok(NodeOrAdmin);
        }
        Admin::from_request_parts(parts, state).await?;
        Ok(NodeOrAdmin)
    }
}

/// The right to watch, for as long as its token is good.
#[derive(Debug)]
pub struct Watch {
    checks: Arc<RequestContext>,
    token: String,
}

impl Watch {
    /// Whether the administrator may still watch. A gate that cannot tell now leaves it as it is.
    pub async fn goes_on(&self) -> bool {
        let refused = self.checks.authenticator.authenticate_admin(&self.token, true).await;
        !matches!(refused, Err(Error::Unauthenticated(_) | Error::Forbidden(_)))
    }
}

impl<S: Sync> FromRequestParts<S> for Watch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Watch, Failure> {
        Admin::from_request_parts(parts, state).await?;
        let token = bearer(parts).ok_or(SIGN_IN)?.to_owned();
        Ok(Watch { checks: RequestContext::of(parts)?, token })
    }
}

/// The token of a request (RFC 6750, 2.1); the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.as_bytes();
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
