//! Authentication: who sends a request, and whether the access rule of the route lets them. The
//! server runs it before the handler and leaves the caller in the request's context. Roles are
//! checked here and nowhere else; whether a user owns an order is checked by the orders actor.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use moka::future::Cache;
use shop_actors::{Caller, users};
use shop_actors::{Error, Result};
use shop_persistence::users::{Role, UserId};
use shop_runtime::Addr;
use tokio::sync::broadcast::{self, error::RecvError};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::keys::{NodeTokenKey, UserTokenKey};
use crate::verification::{RemoteVerifier, verify};

const NO_TOKEN: Error =
    Error::Unauthenticated("send the token that login gave you: Authorization: Bearer <token>");

/// How long an administrator may read without re-verification of the token. While the database is
/// unavailable no token can be verified, and that is when administrators need to look.
const RECENT_ADMIN_TTL: Duration = Duration::from_secs(900);

/// How long to wait for re-verification before the recent one is used.
const REVERIFY_TIMEOUT: Duration = Duration::from_millis(250);

/// The maximum number of recently verified administrator tokens.
const MAX_RECENT_ADMINS: u64 = 1000;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone. A token is not looked at.
    Anyone,
    /// Every user with a valid token.
    User,
    /// Users with the role `ADMIN`.
    Admin,
    /// Other nodes, and users with the role `ADMIN`.
    NodeOrAdmin,
}

/// Routes in groups, each with its access rule.
pub type Routes = Vec<(Access, OpenApiRouter)>;

/// Authenticates requests.
#[derive(Debug, Clone)]
pub struct Authenticator {
    verifier: TokenVerifier,
    node_tokens: Arc<NodeTokenKey>,
    /// Administrators whose tokens were verified recently, by token id.
    recent_admins: Cache<Uuid, Caller>,
}

/// How user tokens are verified.
#[derive(Debug, Clone)]
enum TokenVerifier {
    /// On the auth node, by its users. A reserved shard answers for administrators while the others
    /// are overloaded.
    Local { tokens: Arc<UserTokenKey>, users: Addr<users::Msg>, users_admin: Addr<users::Msg> },
    /// On the other nodes, by the auth node.
    Remote(RemoteVerifier),
}

impl Authenticator {
    /// The authenticator of the auth node. `users_admin` is the shard reserved for administrators.
    pub fn local(
        tokens: Arc<UserTokenKey>,
        users: Addr<users::Msg>,
        users_admin: Addr<users::Msg>,
        node_tokens: Arc<NodeTokenKey>,
    ) -> Authenticator {
        let verifier = TokenVerifier::Local { tokens, users, users_admin };
        Authenticator { verifier, node_tokens, recent_admins: recent_admins() }
    }

    /// The authenticator of another node. A user's tokens are verified again after a change of that
    /// user, as `changes` reports it.
    pub fn remote(
        remote: RemoteVerifier,
        node_tokens: Arc<NodeTokenKey>,
        changes: broadcast::Receiver<UserId>,
    ) -> Authenticator {
        let recent_admins = recent_admins();
        tokio::spawn(evict_changed(changes, remote.clone(), recent_admins.clone()));
        Authenticator { verifier: TokenVerifier::Remote(remote), node_tokens, recent_admins }
    }

    /// The caller of a request, if the access rule lets them. `is_read` says that the request
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] without a valid token, [`Error::Forbidden`] if the role does not
    /// suffice, and temporary errors of the verification.
    pub async fn authenticate(
        &self,
        access: Access,
        headers: &HeaderMap,
        is_read: bool,
    ) -> Result<Option<Caller>> {
        if access == Access::Anyone {
            return Ok(None);
        }
        let token = bearer(headers).ok_or(NO_TOKEN)?;
        match access {
            Access::NodeOrAdmin if self.node_tokens.accepts(token) => Ok(None),
            Access::Admin | Access::NodeOrAdmin => {
                Box::pin(self.authenticate_admin(token, is_read)).await.map(Some)
            }
            Access::Anyone | Access::User => self.authenticate_user(token).await.map(Some),
        }
    }

    /// The user with this token. Most requests of the nodes with a cache of tokens end here.
    async fn authenticate_user(&self, token: &str) -> Result<Caller> {
        match &self.verifier {
            TokenVerifier::Local { tokens, users, .. } => {
                Box::pin(verify(tokens, users, token)).await
            }
            TokenVerifier::Remote(remote) => remote.verify(token).await,
        }
    }

    /// The administrator with this token. A read falls back to a recent verification if none is
    /// possible now.
    async fn authenticate_admin(&self, token: &str, is_read: bool) -> Result<Caller> {
        let token_id = self.tokens().read(token)?.jti;
        let verified = async {
            match &self.verifier {
                TokenVerifier::Local { tokens, users_admin, .. } => {
                    verify(tokens, users_admin, token).await
                }
                TokenVerifier::Remote(remote) => remote.verify(token).await,
            }
        };
        let recent = if is_read { self.recent_admins.get(&token_id).await } else { None };
        let verified = match recent {
            None => verified.await,
            Some(caller) => match tokio::time::timeout(REVERIFY_TIMEOUT, verified).await {
                Err(_)
                | Ok(Err(Error::Unavailable(_) | Error::Overloaded(_) | Error::Crashed(_))) => {
                    return Ok(caller);
                }
                Ok(verified) => verified,
            },
        };
        let admin = verified.and_then(require_admin_role);
        match &admin {
            Ok(caller) => self.recent_admins.insert(token_id, caller.clone()).await,
            Err(_) => self.recent_admins.invalidate(&token_id).await,
        }
        admin
    }

    /// Whether this token still is an administrator's, for a stream that outlives its request. It
    /// is while verification is not possible.
    pub async fn is_still_admin(&self, token: &str) -> bool {
        let verified = self.authenticate_admin(token, true).await;
        !matches!(verified, Err(Error::Unauthenticated(_) | Error::Forbidden(_)))
    }

    fn tokens(&self) -> &UserTokenKey {
        match &self.verifier {
            TokenVerifier::Local { tokens, .. } => tokens,
            TokenVerifier::Remote(remote) => remote.tokens(),
        }
    }
}

/// Checks the role: only an administrator may continue.
fn require_admin_role(caller: Caller) -> Result<Caller> {
    match caller.role {
        Role::Admin => Ok(caller),
        Role::User => Err(Error::Forbidden("only an administrator may do this")),
    }
}

fn recent_admins() -> Cache<Uuid, Caller> {
    Cache::builder()
        .max_capacity(MAX_RECENT_ADMINS)
        .time_to_live(RECENT_ADMIN_TTL)
        .support_invalidation_closures()
        .build()
}

/// Evicts the cached tokens of changed users.
async fn evict_changed(
    mut changes: broadcast::Receiver<UserId>,
    remote: RemoteVerifier,
    recent_admins: Cache<Uuid, Caller>,
) {
    loop {
        match changes.recv().await {
            Ok(user) => {
                remote.evict(user);
                drop(recent_admins.invalidate_entries_if(move |_, caller| caller.id == user));
            }
            Err(RecvError::Lagged(_)) => {
                remote.evict_all();
                recent_admins.invalidate_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// The token of a request (RFC 6750, 2.1). The scheme's case does not matter (RFC 9110, 11.1).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
