//! The four bytes in front of every SMB message on a TCP stream.
//!
//! Port 139 has a type byte, seven reserved bits and a 17-bit length (RFC 1002 section 4.3.1);
//! port 445 has a zero byte and a 24-bit length (MS-SMB section 2.1) of which SMB1 peers use 17 bits.
//! Samba reads 17 bits on both and ignores the others, skips messages of unknown types by their
//! length, and takes a 24-bit length for a write only (`min receivefile size`). What these allow is one
//! format, so one parser does for all.

/// The length of the transport header, in bytes.
pub const HEADER: usize = 4;

/// The longest message that a 17-bit length can name, in bytes.
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
    /// Nothing that any server knows.
    Unknown,
}

/// A transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// How many bytes follow, at most [`LONGEST`].
    pub len: usize,
    /// The length as 24 bits, of which those above [`len`](Self::len) may be reserved ones.
    pub long_len: usize,
}

impl From<[u8; HEADER]> for Header {
    fn from([kind, high, len @ ..]: [u8; HEADER]) -> Self {
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
            len: long_len & LONGEST,
            long_len,
        }
    }
}

impl Header {
    /// Whether the bits above the length are not zero.
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
            (Kind::Message, LONGEST, false)
        );
        assert_eq!(parse([0x81, 0, 0, 0x44]), (Kind::SessionRequest, 68, false));
        assert_eq!(parse([0x82, 0, 0, 0]), (Kind::PositiveResponse, 0, false));
        assert_eq!(parse([0x83, 0, 0, 1]), (Kind::NegativeResponse, 1, false));
        assert_eq!(parse([0x84, 0, 0, 6]), (Kind::Retarget, 6, false));
        assert_eq!(parse([0x85, 0, 0, 0]), (Kind::KeepAlive, 0, false));
        // As Samba reads it.
        assert_eq!(parse([0x86, 1, 0, 4]), (Kind::Unknown, 0x1_0004, false));
        assert_eq!(parse([0, 0x02, 0, 9]), (Kind::Message, 9, true));
        assert_eq!(parse([0, 0xFF, 0, 9]), (Kind::Message, 0x1_0009, true));
    }
}
