//! Tokens: signed on the auth node, read on every node (JWT, RFC 7519).

use std::time::Duration;

use jiff::Timestamp;
pub use jsonwebtoken::Algorithm;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shop_persistence::users::{Role, User, UserId};
use shop_persistence::{Error, Result};
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

/// Signs and reads tokens with one key and one algorithm; a token that names another is refused.
pub struct Tokens {
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    lifetime: Duration,
}

impl Tokens {
    /// Tokens of this HMAC `algorithm`, signed with `secret`, good for `lifetime`.
    pub fn new(algorithm: Algorithm, secret: &[u8], lifetime: Duration) -> Tokens {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.reject_tokens_expiring_in_less_than = 1; // at `exp` it is over (RFC 7519, 4.1.4)
        validation.set_required_spec_claims(&["exp", "sub"]);
        Tokens {
            header: Header::new(algorithm),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            lifetime,
        }
    }

    /// How long a token is good.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for this user.
    pub fn sign(&self, user: &User) -> Result<String> {
        let now = Timestamp::now().as_second();
        let claims = Claims {
            sub: user.id,
            username: user.username.clone(),
            role: user.role,
            iat: now,
            exp: now.saturating_add_unsigned(self.lifetime.as_secs()),
            jti: Uuid::new_v4(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .map_err(|error| Error::Bug(error.into()))
    }

    /// What a token says, if its signature is good and its time is not over.
    pub fn read(&self, token: &str) -> Result<Claims> {
        use jsonwebtoken::errors::ErrorKind::ExpiredSignature;
        match jsonwebtoken::decode(token, &self.decoding, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(error) if matches!(error.kind(), ExpiredSignature) => {
                Err(Error::Unauthorized("this token has expired; sign in again"))
            }
            Err(_) => Err(Error::Unauthorized("this token is not good; sign in again")),
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
}
