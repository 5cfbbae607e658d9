//! The administrator's password as an argon2id hash in PHC string format (RFC 9106).

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

/// Minimum length of a password in characters (NIST SP 800-63B section 5.1.1.2 asks for 8).
pub const MIN_PASSWORD_LEN: usize = 10;
/// Maximum length of a password in bytes.
pub const MAX_PASSWORD_LEN: usize = 1024;

/// The reason why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The password is too short.
    #[error(
        "cannot use this password: it has fewer than {MIN_PASSWORD_LEN} characters; choose a longer one"
    )]
    Short,
    /// The password is too long.
    #[error(
        "cannot use this password: it has more than {MAX_PASSWORD_LEN} bytes; choose a shorter one"
    )]
    Long,
    /// The hash cannot be computed.
    #[error("cannot compute a hash: {0}; try again")]
    Hash(argon2::password_hash::Error),
}

/// Hashes a password with a random salt and the crate's parameters, which are those of OWASP:
/// argon2id, 19 MiB, 2 passes.
///
/// # Errors
/// If the password is too short or too long.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.chars().count() < MIN_PASSWORD_LEN {
        return Err(PasswordError::Short);
    }
    if password.len() > MAX_PASSWORD_LEN {
        return Err(PasswordError::Long);
    }
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string())
        .map_err(PasswordError::Hash)
}

/// Whether a text is a hash that `verify` understands.
pub fn is_hash(text: &str) -> bool {
    text.starts_with("$argon2id$") && PasswordHash::new(text).is_ok_and(|hash| hash.hash.is_some())
}

/// Whether a password has this hash. It takes a fraction of a second on purpose.
pub(crate) fn verify(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        return false;
    };
    let fits = password.len() <= MAX_PASSWORD_LEN;
    fits && Argon2::default()
        .verify_password(password.as_bytes(), &hash)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_has_its_hash() {
        let hash = super::hash("correct horse").unwrap();
        assert!(is_hash(&hash), "{hash}");
        assert!(verify("correct horse", &hash));
        for wrong in ["", "correct hors", "correct horse "] {
            assert!(!verify(wrong, &hash), "{wrong}");
        }
        assert_ne!(
            super::hash("correct horse").unwrap(),
            hash,
            "the salt is random"
        );
        assert!(!verify(&"x".repeat(2000), &hash));
    }

    #[test]
    fn what_is_no_hash_is_recognized() {
        for text in [
            "",
            "secret",
            "$argon2id$",
            "$2b$12$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
        ] {
            assert!(!is_hash(text), "{text}");
            assert!(!verify("secret", text));
        }
        assert!(matches!(hash("short"), Err(PasswordError::Short)));
        assert!(matches!(hash(&"x".repeat(2000)), Err(PasswordError::Long)));
    }
}
