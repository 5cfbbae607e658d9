//! SMB1 messages as clients and servers send them, with their transport headers.

/// Offset of the VcNumber in a session setup with its transport header.
pub const VC_AT: usize = 45;

/// A message of a client, or a transport message.
#[derive(Debug, Clone)]
pub enum Message {
    Negotiate,
    SessionSetup {
        words: u8,
        vc: u16,
        signature: Signature,
    },
    LogoffThenSessionSetup {
        vc: u16,
        gap: u8,
    },
    Write {
        len: usize,
    },
    TreeConnect,
    /// The request, immediately followed by its data.
    WriteRaw {
        data: Vec<u8>,
    },
    ReadRaw,
    WriteMpx {
        len: usize,
    },
    SessionRequest,
    KeepAlive,
    /// A truncated session setup.
    Short {
        len: usize,
    },
}

/// The contents of the signature field.
#[derive(Debug, Clone, Copy)]
pub enum Signature {
    None,
    Placeholder,
    Mac,
}

impl Message {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Negotiate => framed(smb(0x72, Signature::None, b"\0\x0c\0\x02NT LM 0.12\0")),
            Self::SessionSetup {
                words,
                vc,
                signature,
            } => framed(smb(0x73, *signature, &session_setup(*words, *vc))),
            Self::LogoffThenSessionSetup { vc, gap } => {
                let mut body = vec![2, 0x73, 0, 39 + gap, 0, 0, 0];
                body.extend(vec![0xCC; usize::from(*gap)]);
                body.extend(session_setup(12, *vc));
                framed(smb(0x74, Signature::None, &body))
            }
            Self::Write { len } => {
                let mut body = vec![14, 0xFF, 0, 0, 0];
                body.extend([0; 26]);
                // Data that looks like a session setup must not be changed.
                body.extend(SAMPLE_ZERO.iter().cycle().take(*len));
                framed(smb(0x2F, Signature::None, &body))
            }
            Self::TreeConnect => framed(smb(
                0x75,
                Signature::None,
                b"\x04\xFF\0\0\0\0\0\x01\0\x01\0\0",
            )),
            Self::WriteRaw { data } => {
                let mut both = write_raw(data.len(), 0, false);
                both.extend(framed(data.clone()));
                both
            }
            Self::ReadRaw => framed(smb(0x1A, Signature::None, &[&[10][..], &[0; 22]].concat())),
            Self::WriteMpx { len } => {
                let mut body = vec![12];
                body.extend([0; 26]);
                body.extend(SAMPLE_ZERO.iter().cycle().take(*len));
                framed(smb(0x1E, Signature::None, &body))
            }
            Self::SessionRequest => [vec![0x81, 0, 0, 68], vec![0x20; 68]].concat(),
            Self::KeepAlive => vec![0x85, 0, 0, 0],
            Self::Short { len } => framed(SAMPLE_ZERO[4..4 + len].to_vec()),
        }
    }
}

/// Makes an SMB_COM_WRITE_RAW (MS-CIFS section 2.2.4.25.1) for `len` bytes of raw data.
pub fn write_raw(len: usize, mid: u16, through: bool) -> Vec<u8> {
    let mut body = vec![14];
    body.extend([0; 28]);
    body[3..5].copy_from_slice(&(len as u16).to_le_bytes());
    body[15] = through.into();
    body.extend([0; 2]);
    with_mid(framed(smb(0x1D, Signature::None, &body)), mid)
}

fn with_mid(mut message: Vec<u8>, mid: u16) -> Vec<u8> {
    message[34..36].copy_from_slice(&mid.to_le_bytes());
    message
}

/// Makes the first message of a logon with VcNumber 0.
pub fn zero() -> Vec<u8> {
    setup(12, 0, Signature::None)
}

pub fn setup(words: u8, vc: u16, signature: Signature) -> Vec<u8> {
    Message::SessionSetup {
        words,
        vc,
        signature,
    }
    .bytes()
}

/// Responses of servers.
pub mod answer {
    use super::{Signature, framed, smb, with_mid};

    const REPLY: usize = 4 + 9;
    const STATUS: usize = 4 + 5;

    fn reply(command: u8, status: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = framed(smb(command, Signature::None, body));
        bytes[REPLY] = 0x98;
        bytes[STATUS..STATUS + 4].copy_from_slice(&status.to_le_bytes());
        bytes
    }

    /// NT LM 0.12 with extended security and the given security mode.
    pub fn negotiated(mode: u8) -> Vec<u8> {
        let mut body = vec![17, 0, 0, mode];
        body.extend([0; 16]);
        body.extend([0xFC, 0xF3, 0x01, 0x80]);
        body.extend([0; 13]);
        reply(0x72, 0, &body)
    }

    /// As [`negotiated`], with the UNIX extensions.
    pub fn negotiated_unix() -> Vec<u8> {
        let mut bytes = negotiated(7);
        bytes[4 + 32 + 22] |= 0x80;
        bytes
    }

    /// The logon needs another message.
    pub fn challenge() -> Vec<u8> {
        reply(
            0x73,
            0xC000_0016,
            &[4, 0xFF, 0, 0, 0, 0, 0, 2, 0, 2, 0, 1, 2],
        )
    }

    pub fn logged_on(guest: bool) -> Vec<u8> {
        reply(0x73, 0, &[3, 0xFF, 0, 0, 0, guest.into(), 0, 0, 0])
    }

    pub fn logon_failure() -> Vec<u8> {
        reply(0x73, 0xC000_006D, &[0, 0, 0])
    }

    /// The logon is accepted, the tree connect chained to it is not.
    pub fn logged_on_without_tree() -> Vec<u8> {
        reply(0x73, 0xC000_00CC, &[3, 0x75, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The server waits for the data of a WRITE_RAW (MS-CIFS section 2.2.4.25.2).
    pub fn write_raw(mid: u16) -> Vec<u8> {
        with_mid(reply(0x1D, 0, &[1, 0xFF, 0xFF, 0, 0]), mid)
    }

    /// The final response to a WRITE_RAW (MS-CIFS section 2.2.4.25.3).
    pub fn write_complete(status: u32, mid: u16) -> Vec<u8> {
        with_mid(reply(0x20, status, &[1, 0, 0, 0, 0]), mid)
    }

    /// The response to WRITE_MPX over TCP (MS-CIFS section 2.2.4.26).
    pub fn write_mpx_refused() -> Vec<u8> {
        reply(0x1E, 0x00FB_0002, &[0, 0, 0])
    }

    /// A successful WRITE_ANDX.
    pub fn written() -> Vec<u8> {
        reply(0x2F, 0, &[6, 0xFF, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The start of an SMB2 NEGOTIATE response.
    pub fn smb2() -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[..8].copy_from_slice(b"\xFESMB\x40\0\0\0");
        framed(bytes)
    }
}

/// A session setup with VcNumber 0 and its transport header, 61 bytes.
#[rustfmt::skip]
pub const SAMPLE_ZERO: [u8; 61] = [
    0, 0, 0, 0x39,
    0xFF, b'S', b'M', b'B', 0x73, 0, 0, 0, 0, 0x18, 0x07, 0xC8, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFE, 0, 0, 0x40, 0,
    12, 0xFF, 0, 0, 0, 0x04, 0x11, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0xD4, 0, 0, 0xA0,
];

pub fn framed(message: Vec<u8>) -> Vec<u8> {
    let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

fn smb(command: u8, signature: Signature, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..4].copy_from_slice(b"\xFFSMB");
    bytes[4] = command;
    bytes[9] = 0x18;
    bytes[10..12].copy_from_slice(&[0x07, 0xC8]);
    match signature {
        Signature::None => {}
        Signature::Placeholder => bytes[14..22].copy_from_slice(b"BSRSPYL "),
        Signature::Mac => bytes[14..22].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]),
    }
    bytes.extend(body);
    bytes
}

fn session_setup(words: u8, vc: u16) -> Vec<u8> {
    let mut block = vec![0xAB; 1 + 2 * usize::from(words) + 2];
    block[..9].copy_from_slice(&[words, 0xFF, 0, 0, 0, 0x04, 0x11, 0x0A, 0]);
    block[9..11].copy_from_slice(&vc.to_le_bytes());
    block
}
