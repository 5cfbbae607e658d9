//! Compares the parser of SMB1 messages with the oracle.

use crate::smb::oracle;
use vcgate_wire::session_setup::{Layout, Native};
use vcgate_wire::smb1::{Block, HEADER_LEN, Header, Link, PROTOCOL, Protocol, command};

/// Parses the input as an SMB1 message, from its header to the strings of its session setups.
pub fn smb1(message: &[u8]) {
    let Some(header) = message.first_chunk::<HEADER_LEN>() else {
        return;
    };
    let [a, b, c, d, ..] = *header;
    let is_smb1 = message.starts_with(&PROTOCOL);
    assert_eq!(Protocol::from([a, b, c, d]) == Protocol::Smb1, is_smb1);
    let header = Header::from(*header);
    let _ = (header.status(), header.is_response(), header.uid());
    assert_eq!(header.is_signed(), oracle::is_signed(message));

    let mut numbers = Vec::new();
    let mut link = Link::first(header.command());
    loop {
        assert!(link.at >= HEADER_LEN);
        let bytes = message.get(link.at..).unwrap_or_default();
        let block = Block::from(bytes);
        let _ = (block.is_guest(), block.negotiated());
        if link.command == command::SESSION_SETUP_ANDX {
            let words = block.word_count();
            let number = block.vc_number();
            assert_eq!(number.is_some(), bytes.len() >= 11);
            if number.is_some() && words >= Some(5) {
                numbers.push(link.at + 9);
            }
            check_strings(bytes, header.flags2() & 0x8000 != 0, link.at % 2 == 1);
        }
        match link.next(block, message.len()) {
            Ok(Some(next)) => {
                assert!(next.at > link.at && next.at < message.len());
                let overlaps = block.word_count() >= Some(5) && next.at < link.at + 11;
                if link.command == command::SESSION_SETUP_ANDX && overlaps {
                    break;
                }
                link = next;
            }
            Ok(None) | Err(_) => break,
        }
    }
    assert_eq!(numbers, oracle::vc_numbers(message, message.len()));
}

fn check_strings(block: &[u8], unicode: bool, odd: bool) {
    let Some(layout) = Layout::parse(block) else {
        return;
    };
    let range = layout.range(block.len());
    assert!(range.start <= range.end && range.end <= block.len());
    let native = Native::parse(&block[range], layout, unicode, odd);
    for text in [native.os, native.lan_manager] {
        assert!(!text.contains(char::is_control));
    }
}
