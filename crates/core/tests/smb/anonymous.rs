//! Anonymous logons bring the server no signing key, so a later logon can be rewritten.

use super::{hook, sent, vc_at};
use vcgate_core::smb::Mode;
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{SAMPLE_ZERO, Signature, VC_AT, answer, framed, setup};

const BLOCK: usize = 32;
const UNICODE: u8 = 0x80;

/// A session setup with these bytes after its VcNumber.
fn session_setup(words: u8, flags2_high: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = SAMPLE_ZERO[4..4 + BLOCK + 11].to_vec();
    message[11] = flags2_high;
    message[30..32].fill(0);
    message[BLOCK] = words;
    message.extend(rest);
    framed(message)
}

/// WordCount 13 (MS-CIFS section 2.2.4.53.1): two password lengths, then passwords and strings.
fn nt_lm(oem_len: u8, unicode_len: u8, flags2_high: u8, data: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend([oem_len, 0, unicode_len, 0, 0, 0, 0, 0, 0xD4, 0, 0, 0]);
    rest.extend((data.len() as u16).to_le_bytes());
    rest.extend(data);
    session_setup(13, flags2_high, &rest)
}

/// WordCount 12 with a security blob (MS-SMB section 2.2.4.6.1).
fn extended(blob: &[u8]) -> Vec<u8> {
    let len = (blob.len() as u16).to_le_bytes();
    let mut rest = vec![0; 4];
    rest.extend(len);
    rest.extend([0, 0, 0, 0, 0xD4, 0, 0, 0x80]);
    rest.extend(len);
    rest.extend(blob);
    session_setup(12, 0xC8, &rest)
}

/// AUTHENTICATE_MESSAGE (MS-NLMSSP section 2.2.1.3) with fields of these lengths, in SPNEGO or bare.
fn authenticate(lm_len: u8, nt_len: u8, user_len: u8, spnego: &[u8]) -> Vec<u8> {
    let mut blob = spnego.to_vec();
    blob.extend(b"NTLMSSP\0\x03\0\0\0");
    for len in [lm_len, nt_len, 0, user_len, 0, 0] {
        blob.extend([len, 0, len, 0, 64, 0, 0, 0]);
    }
    blob.extend([0x15, 0x8A, 0x88, 0xE2]);
    blob.resize(blob.len() + 64, 0);
    blob
}

/// negTokenResp with a responseToken, and the same with a negState before it (RFC 4178 section 4.2.2).
const SPNEGO: &[u8] = b"\xA1\x81\x90\x30\x81\x8D\xA2\x81\x8A\x04\x81\x87";
const SPNEGO_WITH_STATE: &[u8] = b"\xA1\x70\x30\x6E\xA0\x03\x0A\x01\x01\xA2\x67\x04\x65";

/// The VcNumber that the server gets for a signed logon after this accepted one.
fn given_after(first: &[u8], cut: usize) -> u16 {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    link.server_sends(&mut hook, &answer::negotiated(0x0F));
    let mut stream = first.to_vec();
    for part in [0..cut, cut..stream.len()] {
        let _ = link.send(&mut hook, &stream, part, 0);
    }
    link.ack(&mut hook, 0);
    link.server_sends(&mut hook, &answer::logged_on(false));
    stream.extend(setup(12, 0, Signature::Mac));
    let received = sent(&mut link, &mut hook, &stream);
    vc_at(&received, first.len() + VC_AT)
}

#[test]
fn a_logon_after_an_anonymous_one_is_rewritten() {
    let anonymous = [
        nt_lm(0, 0, 0x40 | UNICODE, &[0, 0, 0, b'W', 0, 0, 0]),
        nt_lm(1, 0, 0x40 | UNICODE, &[0, 0, 0, b'W', 0, 0, 0]),
        nt_lm(0, 0, 0x40, b"\0WORKGROUP\0Unix\0"),
        nt_lm(1, 0, 0x40, b"\0\0WORKGROUP\0Unix\0"),
        extended(&authenticate(0, 0, 0, SPNEGO)),
        extended(&authenticate(1, 0, 0, SPNEGO)),
        extended(&authenticate(1, 0, 0, SPNEGO_WITH_STATE)),
        extended(&authenticate(0, 0, 0, &[])),
    ];
    for first in anonymous {
        assert_eq!(given_after(&first, 0), 1, "{first:02x?}");
    }
}

#[test]
fn a_logon_that_may_have_a_key_counts_as_one() {
    let with_key = [
        nt_lm(24, 24, 0x40 | UNICODE, &[0; 60]),
        nt_lm(0, 0, 0x40 | UNICODE, &[0, b'a', 0, 0, 0]),
        nt_lm(1, 0, 0x40 | UNICODE, &[0, b'a', 0, 0, 0]),
        nt_lm(1, 0, 0x40, b"\0alice\0"),
        nt_lm(0, 0, 0x40, b""),
        extended(&authenticate(24, 24, 0, SPNEGO)),
        extended(&authenticate(1, 0, 10, SPNEGO)),
        extended(&authenticate(0, 24, 0, SPNEGO)),
        extended(b"\x60\x82\x05\x00 a Kerberos ticket"),
        extended(&authenticate(0, 0, 0, SPNEGO)[..60]),
    ];
    for first in with_key {
        assert_eq!(given_after(&first, 0), 0, "{first:02x?}");
    }
    // Its blob comes in another segment.
    let anonymous = extended(&authenticate(0, 0, 0, SPNEGO));
    assert_eq!(given_after(&anonymous, 4 + BLOCK + 11), 0);
}

#[test]
fn an_anonymous_logon_says_nothing_of_another_one() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let mut anonymous = extended(&authenticate(0, 0, 0, SPNEGO));
    anonymous[34] ^= 1;
    let mut stream = [anonymous, setup(12, 0, Signature::None)].concat();
    sent(&mut link, &mut hook, &stream);
    link.ack(&mut hook, 0);
    link.server_sends(&mut hook, &answer::logged_on(false));
    let at = stream.len();
    stream.extend(setup(12, 0, Signature::Mac));
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &stream), at + VC_AT), 0);
}
