//! Secret tokens: 256 random bits as text that fits into a URL and a cookie.
//!
//! `Debug` never prints one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::borrow::Borrow;
use std::fmt;
use std::io;
use zeroize::Zeroizing;

/// The number of random bytes.
const LEN: usize = 32;

/// A secret token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Token(String);

impl Token {
    /// Makes a token from the system's random numbers.
    ///
    /// # Errors
    /// If the system has none.
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LEN]);
        getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
        Ok(Self::from(*bytes))
    }

    /// Returns the text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<[u8; LEN]> for Token {
    fn from(bytes: [u8; LEN]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn tokens_are_random_text_that_is_found_by_its_text_and_never_printed() {
        let [one, other] = [(); 2].map(|()| Token::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 43);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        assert!(one.as_str().chars().all(allowed));
        assert!(!format!("{one:?}").contains(one.as_str()));
        let map = HashMap::from([(one.clone(), 1)]);
        assert_eq!(map.get(one.as_str()), Some(&1));
        assert_eq!(map.get(other.as_str()), None);
    }
}
