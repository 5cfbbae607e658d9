//! What keys and key files must be, and what is said of those that are not.

use super::*;
use proptest::prelude::*;
use std::fs::{Permissions, read_to_string, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

/// RFC 7748, section 6.1: Alice's private key and its public half.
const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

#[test]
fn public_key_of_rfc_7748() {
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
fn errors_say_what_is_wrong() {
    let said = |text: &str| PublicKey::from_base64(text).unwrap_err().to_string();
    assert_eq!(said("abc"), "it has 3 characters, a key has 44");
    assert_eq!(said(&ALICE[1..]), "it has 43 characters, a key has 44");
    assert_eq!(
        said(&ALICE.replacen('n', "!", 1)),
        "its character 6 is '!', which is not base64"
    );
    assert_eq!(said(&ALICE.replace('=', "o")), "it does not end in \"=\"");
    assert_eq!(
        said(&ALICE.replace("o=", "p=")),
        "its last character before the \"=\" cannot end a key"
    );
    assert_eq!(
        said(&"ä".repeat(44)),
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

#[test]
fn files_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    let key = PrivateKey::from_base64(ALICE).unwrap();
    key.write_new(&path).unwrap();
    assert_eq!(read_to_string(&path).unwrap(), format!("{ALICE}\n"));
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(
        PrivateKey::read(&path).unwrap().public_key(),
        key.public_key()
    );

    let error = PrivateKey::generate()
        .unwrap()
        .write_new(&path)
        .unwrap_err();
    let place = path.display();
    assert_eq!(
        error.to_string(),
        format!("{place} exists already and is never overwritten")
    );
    assert_eq!(error.remedy("vcgate genkey"), format!("move {place} away"));
    assert_eq!(read_to_string(&path).unwrap(), format!("{ALICE}\n"));
}

#[test]
fn files_open_to_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    write(&path, ALICE).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o644] {
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = PresharedKey::read(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is open to others than its owner (mode {mode:04o})",
                path.display()
            )
        );
        assert_eq!(error.remedy(""), format!("chmod 600 {}", path.display()));
    }
    for mode in [0o600, 0o400, 0o700] {
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(PresharedKey::read(&path).is_ok());
    }
}

#[test]
fn what_is_no_key_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    let error = PrivateKey::read(&path).unwrap_err();
    let place = path.display();
    assert_eq!(
        error.to_string(),
        format!("cannot read {place}: No such file or directory")
    );
    assert_eq!(
        error.remedy("vcgate genkey"),
        format!("make it: (umask 077; vcgate genkey > {place})")
    );
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for other in [dir.path(), &pipe] {
        let error = PrivateKey::read(other).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} is not a file", other.display())
        );
        assert_eq!(
            error.remedy("vcgate genkey"),
            "name a file that vcgate genkey has written"
        );
    }

    write(&path, b"\xFF\xFE").unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let error = PrivateKey::read(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{place} does not hold a key: it has 2 characters, a key has 44")
    );
    assert_eq!(
        error.remedy("vcgate genkey"),
        "a key file is one line, as vcgate genkey writes it"
    );
}

proptest! {
    #[test]
    fn any_bytes_survive_base64(bytes: [u8; KEY_LEN]) {
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
    fn what_is_accepted_is_canonical(text in "[A-Za-z0-9+/]{42}[A-Za-z0-9+/=]{2}") {
        if let Ok(key) = PublicKey::from_base64(&text) {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}
