//! The keys of a node, one type for each use, so that the compiler refuses one in place of another:
//! user tokens (JWT, RFC 7519), node tokens, and fingerprints of requests.

use std::sync::Arc;
use std::time::Duration;

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shop_actors::{Error, Result};
use shop_persistence::idempotency::FINGERPRINT_VERSION;
use shop_persistence::users::{Role, User, UserId};
use shop_runtime::now;
use uuid::Uuid;

/// The error for a user token at or after its `exp` (RFC 7519, 4.1.4).
pub(crate) const EXPIRED: Error = Error::Unauthenticated("this token has expired; sign in again");

/// The audience of node tokens. User tokens have none.
const NODE_AUDIENCE: &str = "shop-node";

/// The lifetime of a node token: longer than the clocks of two nodes differ.
const NODE_TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// The labels under which keys are derived. A JWT's signing input contains no space, so that no
/// token's signature is a derived key.
const NODE_TOKEN_LABEL: &str = "shop node tokens v1";
const FINGERPRINT_LABEL: &str = "shop fingerprints v1";

/// The keys of a node. All are made from the configured secret, so that every node has the same.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Signs and reads user tokens.
    pub user_tokens: Arc<UserTokenKey>,
    /// Signs and checks node tokens.
    pub node_tokens: Arc<NodeTokenKey>,
    /// Makes fingerprints of requests.
    pub fingerprints: Arc<FingerprintKey>,
}

impl Keys {
    /// The keys for this secret. User tokens are signed with `algorithm`, an HMAC one, and the
    /// secret itself; `lifetime` is theirs. The other keys are derived from the secret.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn new(algorithm: Algorithm, secret: &[u8], lifetime: Duration) -> Result<Keys> {
        Ok(Keys {
            user_tokens: Arc::new(UserTokenKey::new(algorithm, secret, lifetime)),
            node_tokens: Arc::new(NodeTokenKey::new(&derive(secret, NODE_TOKEN_LABEL)?)),
            fingerprints: Arc::new(FingerprintKey::new(&derive(secret, FINGERPRINT_LABEL)?)),
        })
    }
}

/// A key for one purpose: the HMAC-SHA256 of the label, in base64url (256 bits of entropy).
fn derive(secret: &[u8], label: &str) -> Result<Vec<u8>> {
    hmac(label.as_bytes(), &EncodingKey::from_secret(secret)).map(String::into_bytes)
}

/// HMAC-SHA256 in base64url.
fn hmac(message: &[u8], key: &EncodingKey) -> Result<String> {
    jsonwebtoken::crypto::sign(message, key, Algorithm::HS256).map_err(internal)
}

fn internal(error: jsonwebtoken::errors::Error) -> Error {
    Error::Internal(error.into())
}

/// The claims of a user token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// The user's id.
    pub sub: UserId,
    /// The user's name at the time of signing.
    pub username: String,
    /// The user's role at the time of signing.
    pub role: Role,
    /// When the token was signed, in seconds since 1970.
    pub iat: i64,
    /// When the token expires, in seconds since 1970.
    pub exp: i64,
    /// The token's id.
    pub jti: Uuid,
}

/// Signs and reads user tokens with one algorithm. A token that names another is refused.
#[derive(Debug)]
pub struct UserTokenKey {
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    lifetime: Duration,
}

impl UserTokenKey {
    fn new(algorithm: Algorithm, secret: &[u8], lifetime: Duration) -> UserTokenKey {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.reject_tokens_expiring_in_less_than = 1; // at `exp` it has expired
        validation.set_required_spec_claims(&["exp", "sub"]);
        UserTokenKey {
            header: Header::new(algorithm),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            lifetime,
        }
    }

    /// How long a token is valid.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for this user.
    ///
    /// # Errors
    /// If the cryptographic library fails.
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
        jsonwebtoken::encode(&self.header, &claims, &self.encoding).map_err(internal)
    }

    /// The claims of a token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] unless the signature is valid and the token has not expired.
    pub fn read(&self, token: &str) -> Result<Claims> {
        use jsonwebtoken::errors::ErrorKind::ExpiredSignature;
        match jsonwebtoken::decode(token, &self.decoding, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(error) if matches!(error.kind(), ExpiredSignature) => Err(EXPIRED),
            Err(_) => Err(Error::Unauthenticated("this token is not valid; sign in again")),
        }
    }
}

/// The claims of a node token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeClaims {
    /// The node that asks.
    sub: String,
    /// [`NODE_AUDIENCE`].
    aud: String,
    /// When the token expires, in seconds since 1970.
    exp: i64,
}

/// Signs and checks the tokens with which nodes ask each other.
#[derive(Debug)]
pub struct NodeTokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl NodeTokenKey {
    fn new(key: &[u8]) -> NodeTokenKey {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[NODE_AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        NodeTokenKey {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            validation,
        }
    }

    /// A token with which this node asks another.
    pub(crate) fn sign(&self, node: &str) -> Result<String> {
        let exp = now().as_second().saturating_add_unsigned(NODE_TOKEN_LIFETIME.as_secs());
        let claims = NodeClaims { sub: node.to_owned(), aud: NODE_AUDIENCE.to_owned(), exp };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(internal)
    }

    /// Whether this is a valid node token.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        jsonwebtoken::decode::<NodeClaims>(token, &self.decoding, &self.validation).is_ok()
    }
}

/// Makes fingerprints: keyed hashes, so that a stored one of a request with a password does not
/// help to guess it.
#[derive(Debug)]
pub struct FingerprintKey(EncodingKey);

impl FingerprintKey {
    fn new(key: &[u8]) -> FingerprintKey {
        FingerprintKey(EncodingKey::from_secret(key))
    }

    /// A text that is the same for the same content only.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn fingerprint(&self, content: &[u8]) -> Result<String> {
        Ok(format!("{FINGERPRINT_VERSION}{}", hmac(content, &self.0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        let (username, email) = ("anna".into(), "anna@example.com".into());
        User { id: Uuid::now_v7(), username, email, role: Role::User }
    }

    fn keys(algorithm: Algorithm, secret: &str, lifetime_s: u64) -> Keys {
        Keys::new(algorithm, secret.as_bytes(), Duration::from_secs(lifetime_s)).unwrap()
    }

    #[test]
    fn a_token_holds_the_users_claims() {
        let (key, user) = (keys(Algorithm::HS256, "one secret", 60).user_tokens, user());
        let claims = key.read(&key.sign(&user).unwrap()).unwrap();
        assert_eq!((claims.sub, claims.role, claims.username), (user.id, user.role, user.username));
    }

    #[test]
    fn a_token_of_another_key_or_algorithm_or_time_is_refused() {
        let ours = keys(Algorithm::HS256, "one secret", 60).user_tokens;
        for theirs in [
            keys(Algorithm::HS256, "another secret", 60),
            keys(Algorithm::HS512, "one secret", 60),
            keys(Algorithm::HS256, "one secret", 0),
        ] {
            assert!(ours.read(&theirs.user_tokens.sign(&user()).unwrap()).is_err());
        }
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIwIn0.";
        assert!(ours.read(unsigned).is_err());
        assert!(ours.read("").is_err());
    }

    #[test]
    fn a_user_token_that_the_configured_secret_signed_is_accepted() {
        let ours = keys(Algorithm::HS256, "one secret", 60).user_tokens;
        let claims = serde_json::json!({"sub": Uuid::new_v4(), "username": "anna", "role": "USER",
            "iat": 0, "exp": now().as_second() + 60, "jti": Uuid::new_v4()});
        let secret = EncodingKey::from_secret(b"one secret");
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
        assert_eq!(ours.read(&token).unwrap().username, "anna");
    }

    #[test]
    fn a_user_token_is_no_node_token_and_a_node_token_no_user_token() {
        let ours = keys(Algorithm::HS256, "one secret", 60);
        let node = ours.node_tokens.sign("order").unwrap();
        assert!(ours.node_tokens.accepts(&node));
        assert!(ours.user_tokens.read(&node).is_err());
        assert!(!ours.node_tokens.accepts(&ours.user_tokens.sign(&user()).unwrap()));

        // Whichever key signs it, a token with all claims of both is at most one of them.
        let exp = now().as_second() + 60;
        let sign = |aud: Option<&str>, key| {
            let claims = serde_json::json!({"sub": Uuid::new_v4(), "username": "anna", "role": "ADMIN",
                "iat": 0, "exp": exp, "jti": Uuid::new_v4(), "aud": aud});
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key).unwrap()
        };
        for aud in [None, Some(""), Some("shop"), Some("shop-node "), Some("shop-node")] {
            let as_user = sign(aud, &ours.user_tokens.encoding);
            assert!(!ours.node_tokens.accepts(&as_user), "{aud:?}");
            let as_node = sign(aud, &ours.node_tokens.encoding);
            assert_eq!(ours.node_tokens.accepts(&as_node), aud == Some("shop-node"), "{aud:?}");
            assert!(ours.user_tokens.read(&as_node).is_err(), "{aud:?}");
        }
        let for_nodes = sign(Some("shop-node"), &ours.user_tokens.encoding);
        assert!(ours.user_tokens.read(&for_nodes).is_err());
        let theirs = keys(Algorithm::HS256, "another secret", 60).node_tokens;
        assert!(!ours.node_tokens.accepts(&theirs.sign("order").unwrap()));
    }

    #[test]
    fn a_fingerprint_depends_on_the_content_and_the_secret() {
        let ours = keys(Algorithm::HS256, "one secret", 60).fingerprints;
        let theirs = keys(Algorithm::HS256, "another secret", 60).fingerprints;
        let fingerprint = ours.fingerprint(b"PUT /order").unwrap();
        assert_eq!(fingerprint, ours.fingerprint(b"PUT /order").unwrap());
        assert_ne!(fingerprint, ours.fingerprint(b"PUT /orders").unwrap());
        assert_ne!(fingerprint, theirs.fingerprint(b"PUT /order").unwrap());
    }
}
