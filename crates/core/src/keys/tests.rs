//! The text of keys, and the errors for text that is not a key.

use super::*;
use proptest::prelude::*;

/// RFC 7748, section 6.1: Alice's private key and its public half.
const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

#[test]
fn the_public_key_is_that_of_rfc_7748() {
    let key = PrivateKey::from_base64(ALICE).unwrap();
    assert_eq!(key.public_key().to_string(), ALICE_PUBLIC);
    assert_eq!(key.to_base64().as_str(), ALICE);
}

#[test]
fn generated_keys_are_clamped_and_differ() {
    let (a, b) = (
        PrivateKey::generate().unwrap(),
        PrivateKey::generate().unwrap(),
    );
    assert_ne!(a.secret().as_bytes(), b.secret().as_bytes());
    for key in [a, b] {
        let bytes = key.secret().as_bytes();
        assert_eq!(bytes[0] & 7, 0);
        assert_eq!(bytes[31] & 0xC0, 0x40);
    }
}

#[test]
fn errors_name_the_defect() {
    let error = |text: &str| PublicKey::from_base64(text).unwrap_err().to_string();
    assert_eq!(error("abc"), "it has 3 characters, a key has 44");
    assert_eq!(error(&ALICE[1..]), "it has 43 characters, a key has 44");
    assert_eq!(
        error(&ALICE.replacen('n', "!", 1)),
        "its character 6 is '!', which is not base64"
    );
    assert_eq!(error(&ALICE.replace('=', "o")), "it does not end in \"=\"");
    assert_eq!(
        error(&ALICE.replace("o=", "p=")),
        "its last character before the \"=\" cannot end a key"
    );
    assert_eq!(
        error(&"ä".repeat(44)),
        "its character 1 is 'ä', which is not base64"
    );
}

#[test]
fn secrets_are_not_in_debug_output() {
    let key = PrivateKey::from_base64(ALICE).unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(secret)");
    let key = PresharedKey::from_base64(ALICE).unwrap();
    assert_eq!(format!("{key:?}"), "PresharedKey(secret)");
}

proptest! {
    #[test]
    fn any_bytes_are_unchanged_by_base64(bytes: [u8; KEY_LEN]) {
        let text = PublicKey::from(bytes).to_string();
        prop_assert_eq!(text.len(), KEY_TEXT_LEN);
        prop_assert_eq!(*PublicKey::from_base64(&text).unwrap().as_bytes(), bytes);
        prop_assert_eq!(*PresharedKey::from_base64(&text).unwrap().as_bytes(), bytes);
        let private = PrivateKey::from_base64(&text).unwrap();
        prop_assert_eq!(private.to_base64().to_string(), text);
    }

    #[test]
    fn any_text_is_a_key_or_an_error(text: String) {
        let _ = PublicKey::from_base64(&text);
    }

    #[test]
    fn accepted_text_is_canonical(text in "[A-Za-z0-9+/]{42}[A-Za-z0-9+/=]{2}") {
        if let Ok(key) = PublicKey::from_base64(&text) {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}
