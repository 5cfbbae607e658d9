//! The four bytes in front of every SMB message on a TCP stream.
//!
//! Port 139 has a type byte, seven reserved bits and a 17-bit length (RFC 1002 section 4.3.1);
//! port 445 has a zero byte and a 24-bit length (MS-SMB section 2.1) of which no SMB1 peer uses
//! more than 17 bits. What both allow is one format, so one parser does for both.

/// The length of the transport header, in bytes.
pub const HEADER: usize = 4;

/// The longest message that both transports can carry, in bytes.
pub const LONGEST: usize = 0x1_FFFF;

/// What follows the transport header (RFC 1002 section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An SMB message.
    Message,
    /// The client names whom it calls.
    SessionRequest,
    /// The server accepts the call.
    PositiveResponse,
    /// The server declines the call.
    NegativeResponse,
    /// The server names another one to call.
    Retarget,
    /// Nothing; sent when the line is quiet.
    KeepAlive,
}

/// Why four bytes are no transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No such type.
    #[error("unknown session packet type {0:#04x}")]
    Kind(u8),
    /// A reserved bit of port 139, or a message too long for port 445.
    #[error("session packet longer than {LONGEST} bytes")]
    Length,
}

/// A transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// How many bytes follow, at most [`LONGEST`].
    pub len: usize,
}

impl Header {
    /// Parses a transport header of either port.
    pub fn parse(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let [kind, high, len @ ..] = bytes;
        let kind = match kind {
            0x00 => Kind::Message,
            0x81 => Kind::SessionRequest,
            0x82 => Kind::PositiveResponse,
            0x83 => Kind::NegativeResponse,
            0x84 => Kind::Retarget,
            0x85 => Kind::KeepAlive,
            other => return Err(Malformed::Kind(other)),
        };
        if high > 1 {
            return Err(Malformed::Length);
        }
        let len = usize::from(high) << 16 | usize::from(u16::from_be_bytes(len));
        Ok(Self { kind, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1002_4_3_1_types_and_17_bit_length() {
        let parse = |bytes| Header::parse(bytes).map(|h| (h.kind, h.len));
        assert_eq!(parse([0x00, 0, 0, 0x2F]), Ok((Kind::Message, 0x2F)));
        assert_eq!(parse([0x00, 1, 0xFF, 0xFF]), Ok((Kind::Message, LONGEST)));
        assert_eq!(parse([0x81, 0, 0, 0x44]), Ok((Kind::SessionRequest, 68)));
        assert_eq!(parse([0x82, 0, 0, 0]), Ok((Kind::PositiveResponse, 0)));
        assert_eq!(parse([0x83, 0, 0, 1]), Ok((Kind::NegativeResponse, 1)));
        assert_eq!(parse([0x84, 0, 0, 6]), Ok((Kind::Retarget, 6)));
        assert_eq!(parse([0x85, 0, 0, 0]), Ok((Kind::KeepAlive, 0)));
    }

    #[test]
    fn refuses_what_neither_port_allows() {
        assert_eq!(Header::parse([0, 2, 0, 0]), Err(Malformed::Length));
        assert_eq!(Header::parse([0x80, 0, 0, 0]), Err(Malformed::Kind(0x80)));
        assert_eq!(Header::parse(*b"GET "), Err(Malformed::Kind(b'G')));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_length_is_beyond_the_longest(bytes: [u8; 4]) {
            if let Ok(header) = Header::parse(bytes) {
                prop_assert!(header.len <= LONGEST);
            }
        }
    }
}
