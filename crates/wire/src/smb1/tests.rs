//! Messages of real clients and servers, and arbitrary bytes.

use super::*;
use proptest::prelude::*;

/// The start of a SESSION_SETUP_ANDX request with extended security: WordCount 12, no follow-on,
/// VcNumber 1.
#[rustfmt::skip]
const SESSION_SETUP: [u8; 61] = [
    0xFF, b'S', b'M', b'B', 0x73, 0, 0, 0, 0, 0x18, 0x05, 0xD8, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0,
    12, 0xFF, 0, 0, 0, 0x04, 0x41, 0x32, 0, 0x01, 0, 0, 0, 0, 0, 0xAF, 0x05,
    0, 0, 0, 0, 0xFD, 0xD2, 0x00, 0x80, 0x01, 0x06, 0x60, 0x82,
];

/// A server's first response to it: more processing required, Action 0.
#[rustfmt::skip]
const CHALLENGE: [u8; 41] = [
    0xFF, b'S', b'M', b'B', 0x73, 0x16, 0, 0, 0xC0, 0x98, 0x05, 0xD8, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0x01, 0,
    4, 0xFF, 0, 0x43, 0x01, 0, 0, 0x90, 0,
];

/// The NEGOTIATE response of an NT LM 0.12 server: security mode 0x0F, extended security.
#[rustfmt::skip]
const NEGOTIATE: [u8; 58] = [
    0xFF, b'S', b'M', b'B', 0x72, 0, 0, 0, 0, 0x98, 0x05, 0xD8, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0,
    17, 0, 0, 0x0F, 0x32, 0, 1, 0, 0x04, 0x41, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0xFC, 0xF3, 0x01, 0x80,
    0x25, 0x40,
];

fn header(bytes: &[u8]) -> Header {
    Header::from(*bytes.first_chunk::<HEADER_LEN>().unwrap())
}

fn block(bytes: &[u8]) -> Block<'_> {
    Block::from(&bytes[HEADER_LEN..])
}

#[test]
fn ms_cifs_2_2_4_53_1_a_session_setup_request_is_parsed() {
    let (header, block) = (header(&SESSION_SETUP), block(&SESSION_SETUP));
    assert_eq!(header.command(), command::SESSION_SETUP_ANDX);
    assert_eq!(header.flags2(), 0xD805);
    assert!(!header.is_response() && !header.is_signed());
    assert_eq!(block.word_count(), Some(12));
    assert_eq!(block.vc_number(), Some(1));
    let first = Link::first(header.command());
    assert_eq!(first.next(block, SESSION_SETUP.len()), Ok(None));
}

#[test]
fn ms_cifs_2_2_4_53_2_a_session_setup_response_is_parsed() {
    let header = header(&CHALLENGE);
    assert!(header.is_response());
    assert_eq!(header.status(), status::MORE_PROCESSING_REQUIRED);
    assert_eq!(header.uid(), 0x1234);
    assert_eq!(block(&CHALLENGE).is_guest(), Some(false));
    let mut guest = CHALLENGE;
    guest[37] = 1;
    assert_eq!(block(&guest).is_guest(), Some(true));
}

#[test]
fn ms_cifs_2_2_4_52_2_a_negotiate_response_is_parsed() {
    let all = Negotiated {
        dialect: Dialect::NtLm012,
        extended_security: true,
        signing_enabled: true,
        signing_required: true,
        unix_extensions: false,
    };
    assert_eq!(block(&NEGOTIATE).negotiated(), Some(all));
    let mut samba = NEGOTIATE;
    samba[54] |= 0x80;
    let unix = Negotiated {
        unix_extensions: true,
        ..all
    };
    assert_eq!(block(&samba).negotiated(), Some(unix));
    let mut plain = NEGOTIATE;
    (plain[35], plain[55]) = (0x03, 0);
    let none = Negotiated {
        dialect: Dialect::NtLm012,
        extended_security: false,
        signing_enabled: false,
        signing_required: false,
        unix_extensions: false,
    };
    assert_eq!(block(&plain).negotiated(), Some(none));
    // LANMAN 2.1 has another layout.
    let mut older = NEGOTIATE;
    older[32] = 13;
    let lanman = Negotiated {
        dialect: Dialect::LanMan,
        ..none
    };
    assert_eq!(block(&older).negotiated(), Some(lanman));
    older[32] = 1;
    assert_eq!(block(&older).negotiated(), None);
    assert_eq!(Block::from(&NEGOTIATE[32..55]).negotiated(), None);
}

#[test]
fn ms_cifs_2_2_4_52_2_max_number_vcs_is_read_in_both_dialects() {
    let mut response = NEGOTIATE;
    response[38..40].copy_from_slice(&[0x02, 0x01]);
    response[41..43].copy_from_slice(&[0x04, 0x03]);
    assert_eq!(block(&response).max_number_vcs(), Some(0x0102));
    response[32] = 13;
    assert_eq!(block(&response).max_number_vcs(), Some(0x0304));
    response[32] = 1;
    assert_eq!(block(&response).max_number_vcs(), None);
}

#[test]
fn a_message_is_signed_if_the_flag_is_set_and_the_signature_is_real() {
    let mut message = SESSION_SETUP;
    message[10] = 0x07;
    assert!(!header(&message).is_signed());
    message[14..22].copy_from_slice(b"BSRSPYL ");
    assert!(!header(&message).is_signed());
    message[21] = b'!';
    assert!(header(&message).is_signed());
    message[10] = 0x03;
    assert!(!header(&message).is_signed());
}

#[test]
fn protocols_are_distinguished() {
    assert_eq!(Protocol::from(*b"\xFFSMB"), Protocol::Smb1);
    assert_eq!(Protocol::from(*b"\xFFE\0\0"), Protocol::Encrypted);
    for first in [0xFC, 0xFD, 0xFE] {
        assert_eq!(Protocol::from([first, b'S', b'M', b'B']), Protocol::Smb2);
    }
    assert_eq!(Protocol::from(*b"\xFESMC"), Protocol::Unknown);
    assert_eq!(Protocol::from(*b"GET "), Protocol::Unknown);
}

#[test]
fn ms_cifs_2_2_3_4_an_andx_chain_advances_within_its_message_and_ends() {
    let logoff = |next, at: u8| [2, next, 0, at, 0, 0, 0];
    let first = Link::first(command::LOGOFF_ANDX);
    let next = |block: &[u8], len| first.next(Block::from(block), len);
    let setup = next(&logoff(command::SESSION_SETUP_ANDX, 39), 60);
    assert_eq!(
        setup.map(|link| link.map(|l| (l.command, l.at))),
        Ok(Some((command::SESSION_SETUP_ANDX, 39)))
    );
    // Directly after the words and before ByteCount, as OS/2 writes it.
    assert!(matches!(next(&logoff(0x73, 37), 60), Ok(Some(_))));
    // Within the words, which Samba accepts.
    assert!(matches!(next(&logoff(0x73, 34), 60), Ok(Some(_))));
    assert_eq!(next(&logoff(0x73, 33), 60), Err(BadChain));
    assert_eq!(next(&logoff(0x73, 32), 60), Err(BadChain));
    assert_eq!(next(&logoff(0x73, 60), 60), Err(BadChain));
    assert_eq!(next(&logoff(command::NONE, 0), 60), Ok(None));
    // Fewer words than a follow-on needs, and a command without AndX.
    assert_eq!(next(&[1, 0x73, 0, 39, 0], 60), Ok(None));
    let close = Link::first(0x04);
    assert_eq!(close.next(Block::from(&logoff(0x73, 39)[..]), 60), Ok(None));
}

#[test]
fn a_chain_can_continue_to_the_end_of_its_message() {
    let mut link = Link::first(command::LOGOFF_ANDX);
    for depth in 2.. {
        let at = (link.at + 7) as u16;
        let [low, high] = at.to_le_bytes();
        let bytes = [2, command::LOGOFF_ANDX, 0, low, high, 0, 0];
        match link.next(Block::from(&bytes[..]), 1000) {
            Ok(next) => link = next.unwrap(),
            Err(BadChain) => {
                assert_eq!(depth, 2 + (1000 - HEADER_LEN) / 7);
                break;
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_chain_goes_backwards(head: [u8; HEADER_LEN], len in 0usize..300,
                                              bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let header = Header::from(head);
        let _ = (header.command(), header.status(), header.flags2(), header.is_signed(), header.uid());
        let mut link = Link::first(header.command());
        for _ in 0..=len {
            let block = Block::from(bytes.get(link.at..).unwrap_or_default());
            let _ = (block.vc_number(), block.is_guest(), block.negotiated());
            match link.next(block, len) {
                Ok(Some(next)) => {
                    prop_assert!(next.at > link.at && next.at < len);
                    link = next;
                }
                Ok(None) | Err(BadChain) => return Ok(()),
            }
        }
        prop_assert!(false, "the chain does not end");
    }
}
