//! WireGuard keys and their base64 text. It never reads or writes files.
//!
//! ```
//! use vcgate_core::keys::{PrivateKey, PublicKey};
//!
//! let private = PrivateKey::generate()?;
//! let text = private.public_key().to_string();
//! assert_eq!(PublicKey::from_base64(&text), Ok(private.public_key()));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Secret keys are wiped from memory when dropped and never appear in a `Debug` output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::io;
use std::str::FromStr;
use zeroize::Zeroizing;

/// The length of every key, in bytes.
pub const KEY_LEN: usize = 32;
/// The length of a key in base64, in characters, with its `=`.
pub const KEY_TEXT_LEN: usize = 44;

/// The private half of an x25519 key pair.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

impl PrivateKey {
    /// Generates a random key, clamped like those of `wg genkey` (RFC 7748, section 5).
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = random()?;
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Ok(Self(x25519::StaticSecret::from(*bytes)))
    }

    /// Parses a key from its 44 characters of base64.
    ///
    /// # Errors
    /// If the text is not a key.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self(x25519::StaticSecret::from(*decode(text)?)))
    }

    /// Returns the key in base64.
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(self.0.as_bytes())
    }

    /// Returns the public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }

    /// Returns the key in the type of boringtun.
    pub fn secret(&self) -> &x25519::StaticSecret {
        &self.0
    }
}

impl From<[u8; KEY_LEN]> for PrivateKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes.into())
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// The public half of an x25519 key pair, which identifies a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Parses a key from its 44 characters of base64.
    ///
    /// # Errors
    /// If the text is not a key.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*decode(text)?))
    }

    /// Returns the key's bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }
}

impl From<[u8; KEY_LEN]> for PublicKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl From<x25519::PublicKey> for PublicKey {
    fn from(key: x25519::PublicKey) -> Self {
        Self(key.to_bytes())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl From<PublicKey> for x25519::PublicKey {
    fn from(key: PublicKey) -> Self {
        Self::from(key.0)
    }
}

/// A secret that two peers share in addition to their key pairs.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; KEY_LEN]>);

impl PresharedKey {
    /// Generates a random key.
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn generate() -> io::Result<Self> {
        Ok(Self(random()?))
    }

    /// Parses a key from its 44 characters of base64.
    ///
    /// # Errors
    /// If the text is not a key.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self(decode(text)?))
    }

    /// Returns the key in base64.
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(&self.0)
    }

    /// Returns the key's bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl From<[u8; KEY_LEN]> for PresharedKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Serialize for PresharedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for PresharedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::from_base64(&text).map_err(D::Error::custom)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(secret)")
    }
}

/// The reason why a text is not a key. The text itself is not included: it may be almost a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text does not have 44 characters.
    #[error("it has {0} characters, a key has {KEY_TEXT_LEN}")]
    Length(usize),
    /// A character is not base64.
    #[error("its character {place} is {character:?}, which is not base64")]
    Character {
        /// The position, counted from 1.
        place: usize,
        /// The character.
        character: char,
    },
    /// The last character is not the `=` that ends 32 bytes.
    #[error("it does not end in \"=\"")]
    Ending,
    /// The last character before the `=` has bits that belong to no byte.
    #[error("its last character before the \"=\" cannot end a key")]
    LastCharacter,
}

fn random() -> io::Result<Zeroizing<[u8; KEY_LEN]>> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(bytes.as_mut_slice()).map_err(io::Error::from)?;
    Ok(bytes)
}

fn encode(bytes: &[u8; KEY_LEN]) -> Zeroizing<String> {
    // With the full capacity: a string that grows leaves copies of its beginning in memory.
    let mut text = Zeroizing::new(String::with_capacity(KEY_TEXT_LEN));
    STANDARD.encode_string(bytes, &mut text);
    text
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let length = text.chars().count();
    if length != KEY_TEXT_LEN {
        return Err(KeyError::Length(length));
    }
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    for (at, character) in text.chars().take(KEY_TEXT_LEN - 1).enumerate() {
        if !is_base64(character) {
            let place = at + 1;
            return Err(KeyError::Character { place, character });
        }
    }
    if !text.ends_with('=') {
        return Err(KeyError::Ending);
    }
    // The decoder needs space for a complete last group of three bytes.
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let decoded = STANDARD.decode_slice(text, bytes.as_mut_slice());
    match (decoded, bytes.first_chunk::<KEY_LEN>()) {
        (Ok(KEY_LEN), Some(key)) => Ok(Zeroizing::new(*key)),
        _ => Err(KeyError::LastCharacter),
    }
}

#[cfg(test)]
mod tests;
