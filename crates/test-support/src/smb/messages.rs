//! SMB1 messages as clients and servers send them, with their transport headers.

/// Where the VcNumber of a direct session setup is, from the transport header on.
pub const VC_AT: usize = 45;

/// One message, or what may be between messages.
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
    WriteRaw {
        data: Vec<u8>,
    },
    SessionRequest,
    KeepAlive,
    /// A session setup whose message ends early.
    Short {
        len: usize,
    },
}

/// What a message has in its signature field.
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
                // Data that looks like a session setup must stay as it is.
                body.extend(SAMPLE_ZERO.iter().cycle().take(*len));
                framed(smb(0x2F, Signature::None, &body))
            }
            Self::TreeConnect => framed(smb(
                0x75,
                Signature::None,
                b"\x04\xFF\0\0\0\0\0\x01\0\x01\0\0",
            )),
            Self::WriteRaw { data } => {
                let mut both = framed(smb(0x1D, Signature::None, &[12; 27]));
                both.extend(framed(data.clone()));
                both
            }
            Self::SessionRequest => [vec![0x81, 0, 0, 68], vec![0x20; 68]].concat(),
            Self::KeepAlive => vec![0x85, 0, 0, 0],
            Self::Short { len } => framed(SAMPLE_ZERO[4..4 + len].to_vec()),
        }
    }
}

/// The first leg of a logon with VcNumber 0.
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

/// What servers answer.
pub mod answer {
    use super::{Signature, framed, smb};

    const REPLY: usize = 4 + 9;
    const STATUS: usize = 4 + 5;

    fn reply(command: u8, status: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = framed(smb(command, Signature::None, body));
        bytes[REPLY] = 0x98;
        bytes[STATUS..STATUS + 4].copy_from_slice(&status.to_le_bytes());
        bytes
    }

    /// NT LM 0.12 with extended security; signing as the mode says.
    pub fn negotiated(mode: u8) -> Vec<u8> {
        let mut body = vec![17, 0, 0, mode];
        body.extend([0; 16]);
        body.extend([0xFC, 0xF3, 0x01, 0x80]);
        body.extend([0; 13]);
        reply(0x72, 0, &body)
    }

    /// The logon needs another leg.
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

    /// The logon was accepted, the tree connect that was chained to it was not.
    pub fn logged_on_without_tree() -> Vec<u8> {
        reply(0x73, 0xC000_00CC, &[3, 0x75, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The beginning of an SMB2 NEGOTIATE response.
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
