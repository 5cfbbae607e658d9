//! SMB1 messages (MS-CIFS section 2.2.3): the header and the parameter blocks of AndX chains.
//!
//! Only the fields that the hook and the diagnosis need are read; nothing is written.

use std::ops::Range;

/// Length of the SMB header in bytes. The first parameter block follows it.
pub const HEADER_LEN: usize = 32;

/// The first bytes of an SMB1 message.
pub const PROTOCOL: [u8; 4] = *b"\xFFSMB";

/// The protocol that the first four bytes of a message identify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SMB1.
    Smb1,
    /// SMB1 under the encryption of the UNIX extensions: `0xFF 'E'`.
    Encrypted,
    /// SMB2 or SMB3: plain, encrypted or compressed (MS-SMB2 sections 2.2.1, 2.2.41, 2.2.42).
    Smb2,
    /// Another protocol.
    Unknown,
}

impl From<[u8; 4]> for Protocol {
    fn from(bytes: [u8; 4]) -> Self {
        match bytes {
            PROTOCOL => Self::Smb1,
            [0xFF, b'E', ..] => Self::Encrypted,
            [0xFC..=0xFE, b'S', b'M', b'B'] => Self::Smb2,
            _ => Self::Unknown,
        }
    }
}

/// Command codes (MS-CIFS section 2.2.2.1).
pub mod command {
    /// A read whose response is raw data without an SMB header.
    pub const READ_RAW: u8 = 0x1A;
    /// A write whose data follows without an SMB header. Its interim response has the same code.
    pub const WRITE_RAW: u8 = 0x1D;
    /// The final response to WRITE_RAW.
    pub const WRITE_COMPLETE: u8 = 0x20;
    /// Data of a file.
    pub const READ_ANDX: u8 = 0x2E;
    /// A write with the data in the message.
    pub const WRITE_ANDX: u8 = 0x2F;
    /// The first message of each side.
    pub const NEGOTIATE: u8 = 0x72;
    /// Logs a user on.
    pub const SESSION_SETUP_ANDX: u8 = 0x73;
    /// Logs a user off.
    pub const LOGOFF_ANDX: u8 = 0x74;
    /// The end of an AndX chain.
    pub const NONE: u8 = 0xFF;

    /// Returns whether the parameters of a command start with the four bytes that name a follow-on
    /// command (MS-CIFS section 2.2.3.4).
    pub fn is_andx(command: u8) -> bool {
        const LOCKING_ANDX: u8 = 0x24;
        const OPEN_ANDX: u8 = 0x2D;
        const TREE_CONNECT_ANDX: u8 = 0x75;
        const NT_CREATE_ANDX: u8 = 0xA2;
        matches!(
            command,
            LOCKING_ANDX
                | OPEN_ANDX
                | READ_ANDX
                | WRITE_ANDX
                | SESSION_SETUP_ANDX
                | LOGOFF_ANDX
                | TREE_CONNECT_ANDX
                | NT_CREATE_ANDX
        )
    }
}

/// Status codes (MS-CIFS section 2.2.2.4; MS-SMB section 2.2.4.6.2).
pub mod status {
    /// Success.
    pub const SUCCESS: u32 = 0;
    /// The logon needs another message from the client.
    pub const MORE_PROCESSING_REQUIRED: u32 = 0xC000_0016;
}

/// Offsets of the header fields (MS-CIFS section 2.2.3.1).
mod field {
    use std::ops::Range;

    pub(super) const COMMAND: usize = 4;
    pub(super) const STATUS: Range<usize> = 5..9;
    pub(super) const FLAGS: usize = 9;
    pub(super) const FLAGS2: Range<usize> = 10..12;
    pub(super) const SIGNATURE: Range<usize> = 14..22;
    pub(super) const UID: Range<usize> = 28..30;
    pub(super) const MID: Range<usize> = 30..32;
}

/// The SMB header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header([u8; HEADER_LEN]);

impl From<[u8; HEADER_LEN]> for Header {
    fn from(bytes: [u8; HEADER_LEN]) -> Self {
        Self(bytes)
    }
}

impl Header {
    /// Returns the command of the first parameter block.
    pub fn command(&self) -> u8 {
        self.0[field::COMMAND]
    }

    /// Returns the status of a response. 0 is success both as an NT status and as a DOS error.
    pub fn status(&self) -> u32 {
        little_endian(&self.0[field::STATUS])
    }

    /// Returns whether the message is a response.
    pub fn is_response(&self) -> bool {
        self.0[field::FLAGS] & 0x80 != 0
    }

    /// Returns the Flags2 field.
    pub fn flags2(&self) -> u16 {
        little_endian(&self.0[field::FLAGS2]) as u16
    }

    /// Returns the signature field, valid or not.
    pub fn signature(&self) -> [u8; 8] {
        let mut signature = [0; 8];
        signature.copy_from_slice(&self.0[field::SIGNATURE]);
        signature
    }

    /// Returns whether the message carries a MAC: Flags2 says so (MS-CIFS section 2.2.3.1,
    /// SMB_FLAGS2_SMB_SECURITY_SIGNATURE), and the signature is neither zero nor the placeholder
    /// that Windows sends before it has a key.
    pub fn is_signed(&self) -> bool {
        const SECURITY_SIGNATURE: u16 = 0x0004;
        const PLACEHOLDER: [u8; 8] = *b"BSRSPYL ";
        let signature = self.signature();
        self.flags2() & SECURITY_SIGNATURE != 0 && signature != [0; 8] && signature != PLACEHOLDER
    }

    /// Returns the user ID.
    pub fn uid(&self) -> u16 {
        little_endian(&self.0[field::UID]) as u16
    }

    /// Returns the multiplex ID, which a response copies from its request.
    pub fn mid(&self) -> u16 {
        little_endian(&self.0[field::MID]) as u16
    }
}

/// Offsets of the fields of a parameter block from its WordCount.
mod block_field {
    use std::ops::Range;

    pub(super) const WORD_COUNT: usize = 0;
    /// MS-CIFS section 2.2.3.4.
    pub(super) const ANDX_COMMAND: usize = 1;
    pub(super) const ANDX_OFFSET: Range<usize> = 3..5;
    /// SMB_COM_SESSION_SETUP_ANDX response (MS-CIFS section 2.2.4.53.2).
    pub(super) const ACTION: Range<usize> = 5..7;
    /// SMB_COM_NEGOTIATE response of NT LM 0.12 and of LANMAN (MS-CIFS section 2.2.4.52.2).
    pub(super) const MAX_NUMBER_VCS: Range<usize> = 6..8;
    pub(super) const LANMAN_MAX_NUMBER_VCS: Range<usize> = 9..11;
    /// SMB_COM_NEGOTIATE response of NT LM 0.12 (MS-CIFS section 2.2.4.52.2).
    pub(super) const SECURITY_MODE: usize = 3;
    pub(super) const CAPABILITIES: Range<usize> = 20..24;
    /// SMB_COM_READ_ANDX response (MS-SMB section 2.2.4.2.2).
    pub(super) const READ_LENGTH: Range<usize> = 11..13;
    pub(super) const READ_OFFSET: Range<usize> = 13..15;
    pub(super) const READ_LENGTH_HIGH: Range<usize> = 15..17;
    /// SMB_COM_WRITE_ANDX request (MS-SMB section 2.2.4.3.1).
    pub(super) const WRITE_LENGTH_HIGH: Range<usize> = 19..21;
    pub(super) const WRITE_LENGTH: Range<usize> = 21..23;
    pub(super) const WRITE_OFFSET: Range<usize> = 23..25;
}

/// Offset of the VcNumber in the block of a session setup request with WordCount 10, 12 or 13
/// (MS-CIFS section 2.2.4.53.1, MS-SMB section 2.2.4.6.1).
pub const VC_NUMBER: Range<usize> = 9..11;
/// Minimum WordCount of a session setup request that contains a VcNumber. Servers accept counts
/// other than 10, 12 and 13.
pub const MIN_VC_NUMBER_WORDS: u8 = 5;
/// Number of bytes of a session setup response's block up to the end of its Action.
pub const SESSION_SETUP_RESPONSE_LEN: usize = block_field::ACTION.end;
/// Number of bytes of a negotiate response's block up to the end of its capabilities.
pub const NEGOTIATE_RESPONSE_LEN: usize = block_field::CAPABILITIES.end;
/// Number of bytes of an AndX block up to the end of its AndXOffset.
pub const ANDX_LEN: usize = block_field::ANDX_OFFSET.end;
/// Number of bytes of a read response's or write request's block up to the fields that locate its
/// data.
pub const DATA_EXTENT_LEN: usize = block_field::WRITE_OFFSET.end;
/// Number of bytes of a block up to the end of its WordCount.
pub const WORD_COUNT_LEN: usize = block_field::WORD_COUNT + 1;

/// The dialects that a negotiate response distinguishes (MS-CIFS section 2.2.4.52.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// LANMAN 1.0 to 2.1.
    LanMan,
    /// NT LM 0.12.
    NtLm012,
}

impl Dialect {
    /// Returns the name of the dialect.
    pub fn name(self) -> &'static str {
        match self {
            Self::LanMan => "LANMAN",
            Self::NtLm012 => "NT LM 0.12",
        }
    }
}

/// The contents of a NEGOTIATE response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The selected dialect.
    pub dialect: Dialect,
    /// Logons use SPNEGO (CAP_EXTENDED_SECURITY).
    pub extended_security: bool,
    /// The server supports signing.
    pub signing_enabled: bool,
    /// The server requires signing.
    pub signing_required: bool,
    /// The server has the UNIX extensions (CAP_UNIX).
    pub unix_extensions: bool,
}

/// A parameter block from its WordCount on, possibly truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a>(&'a [u8]);

impl<'a> From<&'a [u8]> for Block<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Block<'_> {
    /// Returns the number of 16-bit words in the block.
    pub fn word_count(&self) -> Option<u8> {
        self.0.get(block_field::WORD_COUNT).copied()
    }

    /// Returns the VcNumber of a session setup request.
    pub fn vc_number(&self) -> Option<u16> {
        self.word(VC_NUMBER)
    }

    /// Returns the low byte of the VcNumber, which is the first one.
    pub fn vc_number_low(&self) -> Option<u8> {
        self.0.get(VC_NUMBER.start).copied()
    }

    /// Returns whether a session setup response logs the user on as a guest (MS-CIFS section
    /// 2.2.4.53.2, SMB_SETUP_GUEST).
    pub fn is_guest(&self) -> Option<bool> {
        Some(self.word(block_field::ACTION)? & 1 != 0)
    }

    /// Returns the end of the data of a READ_ANDX response, in bytes from the start of the SMB header;
    /// `None` if another block is chained to this one.
    pub fn read_end(&self) -> Option<usize> {
        const WORDS: u8 = 12;
        use block_field::{READ_LENGTH, READ_LENGTH_HIGH, READ_OFFSET};
        self.data_end(WORDS, READ_OFFSET, READ_LENGTH, READ_LENGTH_HIGH)
    }

    /// Returns the end of the data of a WRITE_ANDX request, in bytes from the start of the SMB
    /// header; `None` if another block is chained to this one.
    pub fn write_end(&self) -> Option<usize> {
        const WORDS: u8 = 14;
        use block_field::{WRITE_LENGTH, WRITE_LENGTH_HIGH, WRITE_OFFSET};
        self.data_end(WORDS, WRITE_OFFSET, WRITE_LENGTH, WRITE_LENGTH_HIGH)
    }

    fn data_end(
        &self,
        words: u8,
        offset: Range<usize>,
        low: Range<usize>,
        high: Range<usize>,
    ) -> Option<usize> {
        let is_last = *self.0.get(block_field::ANDX_COMMAND)? == command::NONE;
        if self.word_count()? != words || !is_last {
            return None;
        }
        let len = usize::from(self.word(high)?) << 16 | usize::from(self.word(low)?);
        Some(usize::from(self.word(offset)?) + len)
    }

    /// Returns the MaxNumberVcs of a negotiate response; `None` if the response has no such field.
    pub fn max_number_vcs(&self) -> Option<u16> {
        match self.negotiated()?.dialect {
            Dialect::NtLm012 => self.word(block_field::MAX_NUMBER_VCS),
            Dialect::LanMan => self.word(block_field::LANMAN_MAX_NUMBER_VCS),
        }
    }

    /// Parses a negotiate response; returns `None` for dialects older than LANMAN 1.0, or if the
    /// server accepts none of the client's.
    pub fn negotiated(&self) -> Option<Negotiated> {
        const LANMAN: u8 = 13;
        const NT_LM_0_12: u8 = 17;
        const SIGNING_ENABLED: u8 = 0x04;
        const SIGNING_REQUIRED: u8 = 0x08;
        const EXTENDED_SECURITY: u32 = 0x8000_0000;
        const UNIX: u32 = 0x0080_0000;
        match self.word_count()? {
            NT_LM_0_12 => {}
            LANMAN => {
                return Some(Negotiated {
                    dialect: Dialect::LanMan,
                    extended_security: false,
                    signing_enabled: false,
                    signing_required: false,
                    unix_extensions: false,
                });
            }
            _ => return None,
        }
        let mode = self.0.get(block_field::SECURITY_MODE)?;
        let capabilities = little_endian(self.0.get(block_field::CAPABILITIES)?);
        Some(Negotiated {
            dialect: Dialect::NtLm012,
            extended_security: capabilities & EXTENDED_SECURITY != 0,
            signing_enabled: mode & SIGNING_ENABLED != 0,
            signing_required: mode & SIGNING_REQUIRED != 0,
            unix_extensions: capabilities & UNIX != 0,
        })
    }

    fn word(&self, range: Range<usize>) -> Option<u16> {
        self.0.get(range).map(|bytes| little_endian(bytes) as u16)
    }
}

/// A parameter block in the AndX chain of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The command that the parameters belong to.
    pub command: u8,
    /// Start of the block, in bytes from the start of the SMB header.
    pub at: usize,
}

/// A chain that goes backwards or leaves the message, which servers reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the AndX chain goes backwards or leaves the message")]
pub struct BadChain;

impl Link {
    /// Returns the first block of a message.
    pub fn first(command: u8) -> Self {
        Self {
            command,
            at: HEADER_LEN,
        }
    }

    /// Returns the block after this one, whose bytes are `block`, in a message of `len` bytes.
    ///
    /// OS/2 writes the words of a second command before the data of the first one, and Samba
    /// accepts any offset after the WordCount of the first one (smb1_walk_chain), so offsets need
    /// only increase.
    ///
    /// # Errors
    /// If the offset does not increase, or lies outside the message.
    pub fn next(self, block: Block<'_>, len: usize) -> Result<Option<Self>, BadChain> {
        let (Some(words), Some(&command), Some(at)) = (
            block.word_count(),
            block.0.get(block_field::ANDX_COMMAND),
            block.word(block_field::ANDX_OFFSET),
        ) else {
            return Ok(None);
        };
        if !command::is_andx(self.command) || words < 2 || command == command::NONE {
            return Ok(None);
        }
        let at = usize::from(at);
        if at <= self.at + 1 || at >= len {
            return Err(BadChain);
        }
        Ok(Some(Self { command, at }))
    }
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}
#[cfg(test)]
mod tests;
