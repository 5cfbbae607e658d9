//! Keys as text: base64 for people and JSON, hex for the UAPI. It does no cryptography.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// A private or preshared key: wiped when dropped, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

/// The text is not 32 bytes of base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64, 44 characters that end with '='")]
pub struct BadKey;

impl SecretKey {
    /// The key's bytes, for those who must have them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SecretKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl FromStr for SecretKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        from_base64(text).map(Self)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(D::Error::custom)
    }
}

/// Appends the key's 64 hex digits.
pub(super) fn push_hex(text: &mut String, bytes: &[u8; 32]) {
    for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
    }
}

/// The key that 64 hex digits stand for.
pub(super) fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(bytes)
}

fn from_base64(text: &str) -> Result<Zeroizing<[u8; 32]>, BadKey> {
    let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| BadKey)?);
    let bytes = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| BadKey)?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // RFC 7748 section 6.1: Alice's public key.
    const HEX: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    const BASE64: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn one_key_in_both_notations() {
        let key = SecretKey::from(*from_hex(HEX).unwrap());
        assert_eq!(BASE64.parse(), Ok(key.clone()));
        assert_eq!(
            serde_json::to_string(&key).unwrap(),
            format!("\"{BASE64}\"")
        );
        let mut hex = String::new();
        push_hex(&mut hex, key.as_bytes());
        assert_eq!(hex, HEX);
        assert_eq!(
            from_hex(&HEX.to_uppercase()).as_deref(),
            Some(key.as_bytes())
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "x",
            &HEX[1..],
            &HEX.replace('8', "g"),
            &format!("{HEX}0"),
        ] {
            assert_eq!(from_hex(text), None, "{text}");
        }
        for text in ["", HEX, &BASE64[..43], &format!("{BASE64} ")] {
            assert_eq!(text.parse::<SecretKey>(), Err(BadKey), "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret: SecretKey = BASE64.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SecretKey(…)");
        assert_eq!(
            serde_json::to_string(&secret).unwrap(),
            format!("\"{BASE64}\"")
        );
    }

    proptest! {
        #[test]
        fn hex_returns(bytes: [u8; 32]) {
            let mut text = String::new();
            push_hex(&mut text, &bytes);
            prop_assert_eq!(*from_hex(&text).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in ".{0,70}") {
            let _ = from_hex(&text);
            let _ = text.parse::<SecretKey>();
        }
    }
}
