//! SMB messages as clients and servers send them, with their transport headers.

/// A client's offer of dialects.
pub(super) fn negotiate() -> Vec<u8> {
    request(0x72, b"\0\x0c\0\x02NT LM 0.12\0")
}

/// A server that speaks NT LM 0.12 with extended security and can sign.
pub(super) fn negotiated() -> Vec<u8> {
    let mut body = vec![17, 0, 0, 0x07];
    body.extend([0; 16]);
    body.extend([0xFC, 0xF3, 0x01, 0x80]);
    body.extend([0; 11]);
    body.extend([16, 0]);
    body.extend([7; 16]);
    response(0x72, 0, &body)
}

/// A server that chose SMB2.
pub(super) fn smb2() -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..8].copy_from_slice(b"\xFESMB\x40\0\0\0");
    framed(&bytes)
}

/// A session setup with WordCount 12, 13 or 10.
pub(super) fn logon(words: u8, vc_number: u16) -> Vec<u8> {
    let mut block = vec![0; 1 + 2 * usize::from(words)];
    block[..9].copy_from_slice(&[words, 0xFF, 0, 0, 0, 0x04, 0x11, 0x0A, 0]);
    block[9..11].copy_from_slice(&vc_number.to_le_bytes());
    // A blob or password of five bytes: UTF-16 after it begins at an even offset.
    block[15] = 5;
    let mut strings = vec![0xB1; 5];
    if words != 12 {
        strings.extend(b"A\0\0\0L\0\0\0");
    }
    if (32 + block.len() + 2 + 5) % 2 == 1 {
        strings.insert(5, 0);
    }
    for text in ["Windows 2002\0", "LAN 5.1\0"] {
        strings.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    }
    block.extend((strings.len() as u16).to_le_bytes());
    block.extend(strings);
    request(0x73, &block)
}

/// The logon needs another leg.
pub(super) fn challenge() -> Vec<u8> {
    response(0x73, 0xC000_0016, &[4, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// The user is logged on.
pub(super) fn logged_on() -> Vec<u8> {
    response(0x73, 0, &[3, 0xFF, 0, 0, 0, 0, 0, 0, 0])
}

/// READ_ANDX.
pub(super) fn read() -> Vec<u8> {
    let mut body = vec![12, 0xFF, 0, 0, 0];
    body.extend([0; 20]);
    body.extend([0, 0]);
    request(0x2E, &body)
}

/// So many bytes of a file.
pub(super) fn data(len: usize) -> Vec<u8> {
    let mut body = vec![12, 0xFF, 0, 0, 0];
    body.extend([0; 20]);
    body.extend((len as u16).to_le_bytes());
    body.extend(vec![0xDA; len]);
    response(0x2E, 0, &body)
}

/// WRITE_ANDX, with data that looks like logons.
pub(super) fn write() -> Vec<u8> {
    let mut body = vec![14, 0xFF, 0, 0, 0];
    body.extend([0; 24]);
    body.extend([0, 0]);
    body.extend(logon(12, 0).repeat(3));
    request(0x2F, &body)
}

fn request(command: u8, body: &[u8]) -> Vec<u8> {
    framed(&smb(command, 0x18, 0, body))
}

fn response(command: u8, status: u32, body: &[u8]) -> Vec<u8> {
    framed(&smb(command, 0x98, status, body))
}

fn smb(command: u8, flags: u8, status: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..4].copy_from_slice(b"\xFFSMB");
    bytes[4] = command;
    bytes[5..9].copy_from_slice(&status.to_le_bytes());
    bytes[9] = flags;
    bytes[10..12].copy_from_slice(&0xC807u16.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}
