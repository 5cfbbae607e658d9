//! Session setups that no client sends, but that servers accept.

use super::{bypass, events, hook, logons, sent, vc_at};
use vcgate_core::smb::{Event, Hook, Mode, Outcome, Reason, Settings, Verdict};
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{
    Message, SAMPLE_ZERO, Signature, VC_AT, answer, framed, setup, write_raw, zero,
};

#[test]
fn any_word_count_that_covers_the_number_is_rewritten() {
    for words in 5..=100 {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let received = sent(&mut link, &mut hook, &setup(words, 0, Signature::None));
        assert_eq!(vc_at(&received, VC_AT), 1, "WordCount {words}");
    }
}

/// The bytes at the number's place belong to another field, but Samba reads the number there.
#[test]
fn a_session_setup_whose_words_are_too_short_for_the_number_is_reported() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let mut stream = zero();
    stream[36] = 2;
    assert_eq!(sent(&mut link, &mut hook, &stream), stream);
    let logon = logons(&mut hook)[0];
    assert_eq!(logon.outcome, Outcome::Unread(Reason::Protocol));
    assert_eq!(hook.counters().unread_setups, 1);
}

/// TREE_CONNECT_ANDX blocks that follow each other, then a session setup with VcNumber 0, and where
/// its number is.
fn chain(blocks: usize) -> (Vec<u8>, usize) {
    let mut message = SAMPLE_ZERO[4..36].to_vec();
    message[4] = 0x75;
    for n in 1..=blocks {
        let command = if n == blocks { 0x73 } else { 0x75 };
        let [low, high] = ((message.len() + 11) as u16).to_le_bytes();
        message.extend([4, command, 0, low, high, 0, 0, 0, 0, 0, 0]);
    }
    let at = message.len() + 9;
    message.extend(&SAMPLE_ZERO[36..]);
    (framed(message), 4 + at)
}

#[test]
fn a_session_setup_at_the_end_of_a_long_chain_is_rewritten() {
    for blocks in [15, 16, 17, 1000, 5000] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let (stream, at) = chain(blocks);
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, at), 1, "after {blocks} blocks");
        assert_eq!(hook.counters().bad_chains, 0);
    }
}

/// Samba wants a follow-on after the WordCount of the block before, not after its words.
#[test]
fn a_session_setup_in_the_words_of_the_previous_block_is_rewritten() {
    let mut message = SAMPLE_ZERO[4..36].to_vec();
    message[4] = 0x74;
    message.extend([60, 0x73, 0, 40, 0, 0, 0, 0]);
    message.extend(&SAMPLE_ZERO[36..]);
    message.resize(32 + 1 + 120 + 2, 0);
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let received = sent(&mut link, &mut hook, &framed(message));
    assert_eq!(vc_at(&received, 4 + 40 + 9), 1);
}

/// A new number would lead the server to another block than the one that the hook has read.
#[test]
fn a_block_in_the_number_of_another_ends_the_reading() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let mut stream = zero();
    stream[37..41].copy_from_slice(&[0x73, 0, 32 + 5, 0]);
    stream.extend(zero());
    sent(&mut link, &mut hook, &stream);
    assert_eq!(bypass(&hook, &link), Some(Reason::Framing));
    let named = |event: &Event| matches!(event, Event::Bypass { .. });
    assert!(events(&mut hook).iter().any(named));
}

#[test]
fn a_session_setup_after_a_message_of_unknown_type_is_rewritten() {
    for before in [
        [0x86, 0, 0, 4, 1, 2, 3, 4],
        [0x01, 0, 0, 4, 1, 2, 3, 4],
        [0x86, 0xFE, 0, 4, 1, 2, 3, 4],
    ] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let stream = [&before[..], &zero()].concat();
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, before.len() + VC_AT), 1);
        assert_eq!(bypass(&hook, &link), None);
    }
}

#[test]
fn a_session_setup_with_reserved_bits_in_its_length_is_rewritten() {
    for bits in [0x02, 0x80, 0xFE] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let mut stream = zero().repeat(2);
        stream[1] = bits;
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, VC_AT), 1);
        assert_eq!(vc_at(&received, zero().len() + VC_AT), 1);
    }
}

/// SMB_COM_WRITE_ANDX (MS-SMB section 2.2.4.3.1) of `len` bytes of data, with a length of 24 bits.
fn long_write(len: usize) -> Vec<u8> {
    const DATA_AT: usize = 64;
    let mut message = SAMPLE_ZERO[4..36].to_vec();
    message[4] = 0x2F;
    message.extend([14, 0xFF, 0, 0, 0]);
    message.resize(DATA_AT, 0);
    message[51..53].copy_from_slice(&((len >> 16) as u16).to_le_bytes());
    message[53..55].copy_from_slice(&(len as u16).to_le_bytes());
    message[55..57].copy_from_slice(&(DATA_AT as u16).to_le_bytes());
    message.extend(SAMPLE_ZERO.iter().cycle().take(len));
    framed(message)
}

/// Sends a stream in segments and returns what arrives.
fn in_segments(link: &mut SimulatedLink, hook: &mut Hook, stream: &[u8]) -> Vec<u8> {
    for start in (link.next()..stream.len()).step_by(60_000) {
        let part = start..stream.len().min(start + 60_000);
        assert_eq!(link.send(hook, stream, part, 0), Verdict::Pass);
    }
    link.ack(hook, 0);
    link.received()
}

/// Samba takes them with `min receivefile size`, from clients that know the UNIX extensions.
#[test]
fn a_logon_after_a_write_of_128_kb_or_more_is_rewritten() {
    for len in [131_072, 200_000, 1 << 20, 16_000_000] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let write = long_write(len);
        let stream = [write.clone(), zero()].concat();
        let received = in_segments(&mut link, &mut hook, &stream);
        assert!(received[..write.len()] == write, "{len} bytes of data");
        assert_eq!(vc_at(&received, write.len() + VC_AT), 1, "after {len}");
        assert_eq!(bypass(&hook, &link), None);
    }
}

#[test]
fn a_write_whose_fields_deny_its_long_length_has_17_bits_of_it() {
    let mut write = Message::Write { len: 200 }.bytes();
    write[1] = 2;
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let stream = [write.clone(), zero()].concat();
    let received = sent(&mut link, &mut hook, &stream);
    assert_eq!(vc_at(&received, write.len() + VC_AT), 1);
    assert_eq!(bypass(&hook, &link), None);
}

/// A server that reads the length in another way than the hook answers a logon in what the hook
/// takes for data, whether it accepts it or not.
#[test]
fn a_logon_hidden_by_a_long_length_is_named() {
    let hidden = [
        long_write(200_000),
        {
            let mut negotiate = Message::Negotiate.bytes();
            negotiate[1] = 2;
            negotiate
        },
        vec![0, 2, 0, 0],
    ];
    for stream in hidden {
        for said in [answer::challenge(), answer::logon_failure()] {
            let mut hook = hook(Mode::Assign);
            let mut link = SimulatedLink::open(&mut hook, 0, 0);
            in_segments(&mut link, &mut hook, &stream);
            assert_eq!(bypass(&hook, &link), None);
            link.server_sends(&mut hook, &said);
            assert_eq!(bypass(&hook, &link), Some(Reason::Framing));
            assert_eq!(hook.counters().bypassed(Reason::Framing), 1);
        }
        // A logon that was read is none of those.
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let stream = [stream, setup(12, 0, Signature::None)].concat();
        in_segments(&mut link, &mut hook, &stream);
        link.server_sends(&mut hook, &answer::logon_failure());
        assert_eq!(bypass(&hook, &link), None);
    }
}

/// Then a hidden logon would go unnoticed.
#[test]
fn a_long_length_ends_the_reading_where_the_server_is_not_read() {
    for is_lost_before in [true, false] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let garbage = framed(b"no SMB at all".to_vec());
        if is_lost_before {
            link.server_sends(&mut hook, &garbage);
        }
        in_segments(&mut link, &mut hook, &long_write(200_000));
        if !is_lost_before {
            assert_eq!(bypass(&hook, &link), None);
            link.server_sends(&mut hook, &garbage);
        }
        assert_eq!(bypass(&hook, &link), Some(Reason::Framing));
    }
}

/// A response of SMB_COM_READ_ANDX whose length has 24 bits (CIFS_UNIX_LARGE_READ_CAP).
#[test]
fn a_server_is_followed_over_a_read_of_128_kb_or_more() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    link.server_sends(&mut hook, &answer::negotiated(7));
    let mut read = long_write(200_000);
    read[8] = 0x2E;
    read[13] = 0x98;
    read[36] = 12;
    read[47..53].copy_from_slice(&[0x40, 0x0D, 64, 0, 3, 0]);
    link.server_sends(&mut hook, &read);
    let signed = setup(12, 0, Signature::Mac);
    let mut stream = signed.clone();
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &stream), VC_AT), 1);
    link.server_sends(&mut hook, &answer::logged_on(false));
    stream.extend(&signed);
    let received = sent(&mut link, &mut hook, &stream);
    assert_eq!(vc_at(&received, signed.len() + VC_AT), 0);
}

#[test]
fn a_signed_session_setup_is_rewritten_where_the_server_does_not_sign() {
    for (mode, expected) in [(3, 1), (7, 0), (15, 0)] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        link.server_sends(&mut hook, &answer::negotiated(mode));
        link.server_sends(&mut hook, &answer::logged_on(false));
        let received = sent(&mut link, &mut hook, &setup(12, 0, Signature::Mac));
        assert_eq!(vc_at(&received, VC_AT), expected, "security mode {mode}");
    }
}

/// The bytes that a hook with the default settings lets through, after these answers of the server.
fn passes(answers: &[Vec<u8>], stream: &[u8]) -> bool {
    let mut hook = Hook::new(Settings::default());
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let first = zero();
    for answer in answers {
        link.server_sends(&mut hook, answer);
        if link.next() == 0 {
            sent(&mut link, &mut hook, &first);
            link.ack(&mut hook, 0);
        }
    }
    let stream = [&first[..link.next()], stream].concat();
    let verdict = link.send(&mut hook, &stream, link.next()..stream.len(), 0);
    assert_eq!(
        hook.counters().unreadable_reset == 0,
        verdict == Verdict::Pass
    );
    verdict == Verdict::Pass
}

/// Without the UNIX extensions no client sends them, and a logon may be hidden in what the hook
/// takes for data. Every user can log on anonymously.
#[test]
fn a_length_of_24_bits_is_a_cause_to_reset_before_the_server_allows_it() {
    let unix = answer::negotiated_unix();
    let anonymous = answer::logged_on(true);
    let write = &long_write(200_000)[..1000];
    let mut negotiate = Message::Negotiate.bytes();
    negotiate[1] = 2;
    for ambiguous in [write, &negotiate] {
        assert!(!passes(&[], ambiguous));
        assert!(!passes(&[answer::negotiated(7)], ambiguous));
        assert!(!passes(
            &[answer::negotiated(7), anonymous.clone()],
            ambiguous
        ));
        assert!(!passes(&[unix.clone(), answer::challenge()], ambiguous));
        assert!(passes(&[unix.clone(), anonymous.clone()], ambiguous));
    }
}

/// Of a write of such a length, fewer bytes than its fields take are in the 17 bits of its length.
#[test]
fn a_logon_after_a_long_write_whose_17_bits_are_few_is_rewritten() {
    for low in [0, 1, 5, 12, 32, 56] {
        let write = long_write((1 << 17) - 64 + low);
        assert_eq!(write[1..4], [2, 0, low as u8]);
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let stream = [write.clone(), zero()].concat();
        let received = in_segments(&mut link, &mut hook, &stream);
        assert!(received[..write.len()] == write);
        assert_eq!(vc_at(&received, write.len() + VC_AT), 1, "{low}");
        assert_eq!(bypass(&hook, &link), None);
    }
}

#[test]
fn a_logon_that_cannot_be_rewritten_is_reset_in_the_default_settings() {
    let mut short = zero();
    short[36] = 2;
    let raw = [write_raw(200, 7, false), zero()].concat();
    let mut overlapping = zero();
    overlapping[37..41].copy_from_slice(&[0x73, 0, 32 + 5, 0]);
    for crafted in [short, raw, overlapping] {
        assert!(!passes(&[], &crafted));
        let answers = [answer::negotiated(7), answer::logged_on(false)];
        assert!(!passes(&answers, &crafted));
    }
    // The client waits for the answer to a raw write, whose data may be anything.
    let answers = [answer::negotiated(7), answer::logged_on(false)];
    assert!(passes(&answers, &write_raw(200, 7, false)));
}
