//! Keys in hex, as the UAPI writes them.

use zeroize::Zeroizing;

/// Appends the key's 64 hex digits.
pub(super) fn push_hex(text: &mut String, bytes: &[u8; 32]) {
    for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
    }
}

/// Parses a key of 64 hex digits.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;
    use proptest::prelude::*;

    // RFC 7748 section 6.1: Alice's public key.
    const HEX: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    const BASE64: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn hex_and_base64_of_a_key_agree() {
        let key: PublicKey = BASE64.parse().unwrap();
        let mut hex = String::new();
        push_hex(&mut hex, key.as_bytes());
        assert_eq!(hex, HEX);
        for hex in [HEX, &HEX.to_uppercase()] {
            assert_eq!(from_hex(hex).as_deref(), Some(key.as_bytes()));
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in [
            "",
            "x",
            &HEX[1..],
            &HEX.replace('8', "g"),
            &format!("{HEX}0"),
        ] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn hex_round_trips(bytes: [u8; 32]) {
            let mut text = String::new();
            push_hex(&mut text, &bytes);
            prop_assert_eq!(*from_hex(&text).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in ".{0,70}") {
            let _ = from_hex(&text);
        }
    }
}
