//! Keys and key files: permissions, encoding, erasure.
