//! The 4-byte transport header before every SMB message on a TCP stream.
//!
//! Port 139 uses a type byte, seven reserved bits and a 17-bit length (RFC 1002 section 4.3.1);
//! port 445 uses a zero byte and a 24-bit length (MS-SMB section 2.1), of which SMB1 peers use 17
//! bits. Samba reads 17 bits on both ports and ignores the others, skips messages of unknown types
//! by their length, and accepts a 24-bit length only for a write (`min receivefile size`). One
//! parser covers both.

/// Length of the transport header in bytes.
pub const HEADER_LEN: usize = 4;

/// Maximum length of a message with a 17-bit length field, in bytes.
pub const MAX_LEN: usize = 0x1_FFFF;

/// The type of a transport message (RFC 1002 section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An SMB message.
    Message,
    /// The client requests a NetBIOS session with a name.
    SessionRequest,
    /// The server accepts the session.
    PositiveResponse,
    /// The server rejects the session.
    NegativeResponse,
    /// The server redirects the client to another server.
    Retarget,
    /// An empty message on an idle connection.
    KeepAlive,
    /// A type that no server defines.
    Unknown,
}

/// A transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type of the message.
    pub kind: Kind,
    /// Number of bytes after the header, at most [`MAX_LEN`].
    pub len: usize,
    /// The 24-bit length, whose bits above [`len`](Self::len) may be reserved bits.
    pub long_len: usize,
}

impl From<[u8; HEADER_LEN]> for Header {
    fn from([kind, high, len @ ..]: [u8; HEADER_LEN]) -> Self {
        let kind = match kind {
            0x00 => Kind::Message,
            0x81 => Kind::SessionRequest,
            0x82 => Kind::PositiveResponse,
            0x83 => Kind::NegativeResponse,
            0x84 => Kind::Retarget,
            0x85 => Kind::KeepAlive,
            _ => Kind::Unknown,
        };
        let long_len = usize::from(high) << 16 | usize::from(u16::from_be_bytes(len));
        Self {
            kind,
            len: long_len & MAX_LEN,
            long_len,
        }
    }
}

impl Header {
    /// Returns whether bits above the 17-bit length are set.
    pub fn is_long(&self) -> bool {
        self.long_len != self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1002_4_3_1_types_and_17_bit_length() {
        let parse = |bytes| {
            let header = Header::from(bytes);
            (header.kind, header.len, header.is_long())
        };
        assert_eq!(parse([0x00, 0, 0, 0x2F]), (Kind::Message, 0x2F, false));
        assert_eq!(
            parse([0x00, 1, 0xFF, 0xFF]),
            (Kind::Message, MAX_LEN, false)
        );
        assert_eq!(parse([0x81, 0, 0, 0x44]), (Kind::SessionRequest, 68, false));
        assert_eq!(parse([0x82, 0, 0, 0]), (Kind::PositiveResponse, 0, false));
        assert_eq!(parse([0x83, 0, 0, 1]), (Kind::NegativeResponse, 1, false));
        assert_eq!(parse([0x84, 0, 0, 6]), (Kind::Retarget, 6, false));
        assert_eq!(parse([0x85, 0, 0, 0]), (Kind::KeepAlive, 0, false));
        // Samba reads the length in the same way.
        assert_eq!(parse([0x86, 1, 0, 4]), (Kind::Unknown, 0x1_0004, false));
        assert_eq!(parse([0, 0x02, 0, 9]), (Kind::Message, 9, true));
        assert_eq!(parse([0, 0xFF, 0, 9]), (Kind::Message, 0x1_0009, true));
    }
}
