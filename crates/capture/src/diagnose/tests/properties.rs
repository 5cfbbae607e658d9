//! No bytes panic, and how a stream is cut into segments does not matter.

use super::network::{ACK, Network, TestConnection};
use super::{SERVER, diagnosis, file, message, office};
use crate::diagnose::Diagnosis;
use proptest::prelude::*;

/// Requests of a client, with many kinds of logon.
fn stream() -> Vec<u8> {
    let logons = [(12, 0), (12, 1), (13, 0), (10, 0), (12, 256)].map(|(w, n)| message::logon(w, n));
    let messages = [
        message::negotiate(),
        message::write(),
        logons.concat(),
        message::read(),
        message::write(),
        message::logon(12, 0),
    ];
    messages.concat()
}

/// The stream in segments that end at `cuts`; those before `swaps` change places with the next,
/// and those before `twice` come twice.
fn sent(cuts: &[usize], swaps: &[usize], twice: &[usize]) -> Network {
    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    let stream = stream();
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % stream.len()).collect();
    ends.extend([0, stream.len()]);
    ends.sort_unstable();
    ends.dedup();
    let mut segments: Vec<_> = ends.windows(2).map(|w| w[0]..w[1]).collect();
    for at in twice {
        let at = at % segments.len();
        segments.insert(at, segments[at].clone());
    }
    for at in swaps {
        let at = at % segments.len();
        if at + 1 < segments.len() {
            segments.swap(at, at + 1);
        }
    }
    let first = connection.seqs.0;
    for segment in segments {
        let seq = first.wrapping_add(segment.start as u32);
        let ends = (connection.client, connection.server);
        net.send(ends, seq, connection.seqs.1, ACK, &stream[segment]);
    }
    connection.seqs.0 = first.wrapping_add(stream.len() as u32);
    connection.answer(&mut net, &message::logged_on());
    net
}

/// The requests without their frames and times.
fn requests(net: &Network) -> Vec<(u8, String, String)> {
    let diagnosis = diagnosis(&file::plain(net));
    assert_eq!(diagnosis.report().counts.session_setups, 6);
    let requests = diagnosis.report().requests.iter();
    requests
        .map(|r| {
            (
                r.word_count,
                r.native_os.clone(),
                r.native_lan_manager.clone(),
            )
        })
        .collect()
}

#[test]
fn the_stream_holds_what_it_should() {
    let expected = [12, 13, 10, 12].map(|words| (words, "Windows 2002".into(), "LAN 5.1".into()));
    assert_eq!(requests(&sent(&[], &[], &[])), expected);
    let stream = stream();
    let each: Vec<_> = (0..stream.len()).collect();
    assert_eq!(requests(&sent(&each, &[], &[])), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn segments_do_not_matter(cuts in prop::collection::vec(any::<usize>(), 0..40),
                              swaps in prop::collection::vec(any::<usize>(), 0..10),
                              twice in prop::collection::vec(any::<usize>(), 0..5)) {
        prop_assert_eq!(requests(&sent(&cuts, &swaps, &twice)), requests(&sent(&[], &[], &[])));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300),
                      magic in prop::sample::select(vec![0xA1B2_C3D4u32, 0xD4C3_B2A1, 0x0A0D_0D0A, 0x0000_8B1F])) {
        let _ = Diagnosis::read(&bytes[..]);
        let _ = Diagnosis::read(&[&magic.to_le_bytes()[..], &bytes].concat()[..]);
    }

    #[test]
    fn no_damage_panics(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..30),
                        cut: usize, is_ng: bool) {
        let net = office("192.168.77.2", SERVER);
        let mut bytes = match is_ng {
            true => file::pcapng(&net, [file::ETHERNET, file::RAW], file::Order::Little),
            false => file::plain(&net),
        };
        for (at, with) in damage {
            let at = at % bytes.len();
            bytes[at] = with;
        }
        bytes.truncate(bytes.len() - cut % 100);
        let _ = Diagnosis::read(&bytes[..]);
        let _ = Diagnosis::read(&file::gzip(&bytes)[..]);
    }
}
