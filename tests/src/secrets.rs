//! The secrets of every shop in the tests.

/// The password of every administrator and user.
pub const PASSWORD: &str = "correct horse";

/// The key that signs the tokens.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
