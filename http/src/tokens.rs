//! Tokens: signed on the auth node, read on every node (JWT, RFC 7519).

use std::time::Duration;

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shop_persistence::users::{Role, User, UserId};
use shop_persistence::{Error, Result};
use shop_runtime::now;
use uuid::Uuid;

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Whose it is.
    pub sub: UserId,
    /// The name at the time of signing.
    pub username: String,
    /// What the user was allowed at the time of signing.
    pub role: Role,
    /// When it was signed, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// Identifies the token.
    pub jti: Uuid,
}

/// At `exp` a token is over (RFC 7519, 4.1.4).
pub(crate) const EXPIRED: Error = Error::Unauthenticated("this token has expired; sign in again");

/// Whom the tokens of nodes are for: each other. A user's token is for nobody in particular.
const NODES: &str = "shop-node";

/// How long a node's token is good: long enough for clocks that differ.
const NODE_LIFETIME: Duration = Duration::from_secs(300);

/// What the token of a node says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeClaims {
    /// Which node.
    sub: String,
    /// Whom it is for.
    aud: String,
    /// When it ends, in seconds since 1970.
    exp: i64,
}

/// Signs and reads tokens with one key and one algorithm; a token that names another is refused.
pub struct Tokens {
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    node_validation: Validation,
    lifetime: Duration,
}

impl Tokens {
    /// Tokens of this HMAC `algorithm`, signed with `secret`, good for `lifetime`.
    pub fn new(algorithm: Algorithm, secret: &[u8], lifetime: Duration) -> Tokens {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.reject_tokens_expiring_in_less_than = 1; // at `exp` it is over (RFC 7519, 4.1.4)
        validation.set_required_spec_claims(&["exp", "sub"]);
        let mut node_validation = Validation::new(algorithm);
        node_validation.set_audience(&[NODES]);
        node_validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        Tokens {
            header: Header::new(algorithm),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            node_validation,
            lifetime,
        }
    }

    /// How long a token is good.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for this user.
    pub fn sign(&self, user: &User) -> Result<String> {
        let now = now().as_second();
        let claims = Claims {
            sub: user.id,
            username: user.username.clone(),
            role: user.role,
            iat: now,
            exp: now.saturating_add_unsigned(self.lifetime.as_secs()),
            jti: Uuid::new_v4(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .map_err(|error| Error::Internal(error.into()))
    }

    /// A short text that is the same for the same `request` only, and that says nothing about it to whoever does not
    /// have the secret. No token can be made of it: what a token's signature is made of has no spaces.
    pub fn fingerprint(&self, request: &[u8]) -> Result<String> {
        jsonwebtoken::crypto::sign(request, &self.encoding, self.header.alg)
            .map_err(|error| Error::Internal(error.into()))
    }

    /// A token with which this node asks another.
    pub(crate) fn sign_node(&self, node: &str) -> Result<String> {
        let end = now().as_second().saturating_add_unsigned(NODE_LIFETIME.as_secs());
        let claims = NodeClaims { sub: node.to_owned(), aud: NODES.to_owned(), exp: end };
        jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .map_err(|error| Error::Internal(error.into()))
    }

    /// Whether a token is a node's, and good.
    pub(crate) fn is_of_node(&self, token: &str) -> bool {
        jsonwebtoken::decode::<NodeClaims>(token, &self.decoding, &self.node_validation).is_ok()
    }

    /// What a token says, if its signature is good and its time is not over.
    pub fn read(&self, token: &str) -> Result<Claims> {
        use jsonwebtoken::errors::ErrorKind::ExpiredSignature;
        match jsonwebtoken::decode(token, &self.decoding, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(error) if matches!(error.kind(), ExpiredSignature) => Err(EXPIRED),
            Err(_) => Err(Error::Unauthenticated("this token is not good; sign in again")),
        }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        let (username, email) = ("anna".into(), "anna@example.com".into());
        User { id: Uuid::now_v7(), username, email, role: Role::User }
    }

    fn tokens(algorithm: Algorithm, secret: &str, lifetime_s: u64) -> Tokens {
        Tokens::new(algorithm, secret.as_bytes(), Duration::from_secs(lifetime_s))
    }

    #[test]
    fn a_token_says_whose_it_is() {
        let (tokens, user) = (tokens(Algorithm::HS256, "one secret", 60), user());
        let claims = tokens.read(&tokens.sign(&user).unwrap()).unwrap();
        assert_eq!((claims.sub, claims.role, claims.username), (user.id, user.role, user.username));
    }

    #[test]
    fn a_token_of_another_key_or_algorithm_or_time_is_refused() {
        let ours = tokens(Algorithm::HS256, "one secret", 60);
        for theirs in [
            tokens(Algorithm::HS256, "another secret", 60),
            tokens(Algorithm::HS512, "one secret", 60),
            tokens(Algorithm::HS256, "one secret", 0),
        ] {
            assert!(ours.read(&theirs.sign(&user()).unwrap()).is_err());
        }
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIwIn0.";
        assert!(ours.read(unsigned).is_err());
        assert!(ours.read("").is_err());
    }

    #[test]
    fn a_users_token_is_no_nodes_and_a_nodes_no_users() {
        let ours = tokens(Algorithm::HS256, "one secret", 60);
        let node = ours.sign_node("order").unwrap();
        assert!(ours.is_of_node(&node));
        assert!(ours.read(&node).is_err());
        assert!(!ours.is_of_node(&ours.sign(&user()).unwrap()));

        // Not even one that claims all that a user's does, or a user's that is for somebody.
        let exp = now().as_second() + 60;
        let both = |aud: Option<&str>| {
            let claims = serde_json::json!({"sub": Uuid::new_v4(), "username": "anna", "role": "ADMIN",
                "iat": 0, "exp": exp, "jti": Uuid::new_v4(), "aud": aud});
            jsonwebtoken::encode(&ours.header, &claims, &ours.encoding).unwrap()
        };
        assert!(ours.read(&both(Some("shop-node"))).is_err());
        for aud in [None, Some(""), Some("shop"), Some("shop-node ")] {
            assert!(!ours.is_of_node(&both(aud)), "{aud:?}");
        }
        let theirs = tokens(Algorithm::HS256, "another secret", 60);
        assert!(!ours.is_of_node(&theirs.sign_node("order").unwrap()));
    }
}
