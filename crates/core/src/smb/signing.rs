//! Distinguishes logons that give a server a signing key from those that do not.
//!
//! A server signs and verifies once it has accepted a user who is neither a guest nor anonymous
//! (MS-CIFS section 3.3.5.43). The response identifies a guest; only the request identifies an
//! anonymous logon. If the request does not show it, the logon counts as one with a key.

use std::collections::VecDeque;
use vcgate_wire::smb1::Header;

/// Bytes of a block that show whether a logon is anonymous: the words of a session setup, SPNEGO
/// around an NTLMSSP message, and that message's fixed fields.
pub(super) const EXCERPT: usize = 29 + MAX_SPNEGO + ntlmssp::FIXED;
/// Maximum length of the DER in front of the NTLMSSP message (RFC 4178 section 4.2.2): five nested
/// headers of four bytes, a negState and a supportedMech.
const MAX_SPNEGO: usize = 48;
/// Maximum number of requests that are remembered; servers announce a MaxMpxCount of 10 to 50, and
/// clients log on one user at a time.
const MAX_REQUESTS: usize = 16;

/// A client's session setups that the server has not answered.
#[derive(Debug, Default)]
pub(super) struct LogonRequests {
    /// Multiplex ids, and whether the logon is anonymous.
    pending: VecDeque<(u16, bool)>,
}

impl LogonRequests {
    /// Remembers a request.
    pub(super) fn request(&mut self, mid: u16, is_anonymous: bool) {
        // An id that is reused no longer refers to a pending request.
        self.take(mid);
        if self.pending.len() == MAX_REQUESTS {
            self.pending.pop_front();
        }
        self.pending.push_back((mid, is_anonymous));
    }

    /// Takes the request that a response answers: returns whether it is anonymous, if that is
    /// known.
    pub(super) fn take(&mut self, mid: u16) -> Option<bool> {
        let place = self.pending.iter().position(|(own, _)| *own == mid)?;
        let (_, is_anonymous) = self.pending.remove(place)?;
        Some(is_anonymous)
    }
}

/// Whether a session setup is anonymous, by the beginning of its block, which is the first one of
/// its message.
pub(super) fn is_anonymous(header: &Header, block: &[u8]) -> bool {
    match block.first() {
        Some(13) => is_null_logon(header, block) == Some(true),
        Some(12) => block.get(27..).is_some_and(ntlmssp::is_anonymous),
        _ => false,
    }
}

/// Whether both password and account name are empty (MS-CIFS section 2.2.4.53.1). Clients also send
/// a password of one zero byte.
fn is_null_logon(header: &Header, block: &[u8]) -> Option<bool> {
    const UNICODE: u16 = 0x8000;
    const DATA: usize = 29;
    let lengths = [u16_at(block, 15)?, u16_at(block, 17)?];
    let byte_count = usize::from(u16_at(block, 27)?);
    let password = match lengths {
        [0, 0] => 0,
        [1, 0] => 1,
        _ => return Some(false),
    };
    // Unicode strings are aligned to the header, which the block follows at an even offset.
    let name = match header.flags2() & UNICODE {
        0 => password..password + 1,
        _ => password..(DATA + password).next_multiple_of(2) - DATA + 2,
    };
    let data = block.get(DATA..)?;
    let is_empty = data.get(..name.end)?.iter().all(|byte| *byte == 0);
    Some(name.end <= byte_count && is_empty)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

/// NTLMSSP messages (MS-NLMSSP section 2.2.1.3), bare or in SPNEGO.
mod ntlmssp {
    use super::{MAX_SPNEGO, u16_at};

    const AUTHENTICATE: &[u8] = b"NTLMSSP\0\x03\0\0\0";
    /// Fields up to the flags, in bytes.
    pub(super) const FIXED: usize = 64;
    const LM_RESPONSE: usize = 12;
    const NT_RESPONSE: usize = 20;
    const USER_NAME: usize = 36;

    /// Whether the blob begins with an AUTHENTICATE_MESSAGE without user and responses (MS-NLMSSP
    /// section 3.2.5.1.2).
    pub(super) fn is_anonymous(blob: &[u8]) -> bool {
        let mut places = blob.windows(AUTHENTICATE.len()).take(MAX_SPNEGO + 1);
        let Some(at) = places.position(|bytes| bytes == AUTHENTICATE) else {
            return false;
        };
        let Some(message) = blob.get(at..at + FIXED) else {
            return false;
        };
        let len = |field| u16_at(message, field);
        matches!(len(LM_RESPONSE), Some(0 | 1))
            && len(NT_RESPONSE) == Some(0)
            && len(USER_NAME) == Some(0)
    }
}
