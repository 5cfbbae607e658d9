//! Captures of SMB users under loss and reordering: each frame equals the packet that passed, and its
//! metadata lists exactly the changes of the hook.

use crate::network;
use crate::network::{Faults, Network, inner};
use crate::smb::{stream, streams_at_server_of};
use crate::stale::{crash, log_on};
use proptest::prelude::*;
use smoltcp::wire::TcpPacket;
use std::collections::HashMap;
use std::net::IpAddr;
use vcgate_core::engine::{CaptureBuffer, Direction, Filter, Frame, Side};
use vcgate_core::smb::{Change, Mode};
use vcgate_wire::ip::Headers;

const CLIENTS: usize = 3;

/// Returns the sequence number, the SYN flag and the data of a segment.
fn segment(bytes: &[u8]) -> (u32, bool, &[u8]) {
    let headers = Headers::parse(bytes).unwrap();
    let tcp = TcpPacket::new_checked(&bytes[headers.l4..headers.len]).unwrap();
    let data = &bytes[headers.l4 + usize::from(tcp.header_len())..headers.len];
    (tcp.seq_number().0 as u32, tcp.syn(), data)
}

/// Returns the client of a frame, and checks that the peer name matches the address.
fn client_of(frame: &Frame) -> usize {
    let address = frame.metadata.inner.unwrap().address;
    let client = (0..CLIENTS).find(|i| IpAddr::from(inner(*i)) == address);
    let client = client.unwrap();
    assert_eq!(
        frame.metadata.peer.as_deref(),
        Some(&*format!("client{client}"))
    );
    client
}

fn captured(filter: Filter, seed: u64, faults: Faults) -> (Network, CaptureBuffer) {
    let mut network = network(CLIENTS, Mode::Assign, seed);
    (network.faults, network.keep_lan) = (faults, true);
    network.engine.start_capture(filter);
    streams_at_server_of(&mut network);
    let capture = network.engine.stop_capture();
    let dropped = [Side::Tunnel, Side::Lan].map(|side| capture.dropped(side));
    assert_eq!(dropped, [0, 0]);
    (network, capture)
}

fn on_side(capture: &CaptureBuffer, side: Side) -> impl Iterator<Item = (&Frame, &[u8])> {
    capture.frames().filter(move |(frame, _)| {
        frame.side == side && frame.metadata.direction == Direction::ToLan
    })
}

fn assert_exact_capture(seed: u64, faults: Faults) {
    let (network, capture) = captured(Filter::default(), seed, faults);
    let streams: Vec<_> = (0..CLIENTS).map(stream).collect();
    let mut initial_seqs = HashMap::new();
    for (frame, bytes) in on_side(&capture, Side::Tunnel) {
        let client = client_of(frame);
        match segment(bytes) {
            (seq, true, _) => drop(initial_seqs.insert(client, seq.wrapping_add(1))),
            (seq, false, data) => {
                let at = seq.wrapping_sub(initial_seqs[&client]) as usize;
                assert!(data.is_empty() || streams[client][at..].starts_with(data));
            }
        }
    }
    let mut numbers = HashMap::new();
    let mut sent = Vec::new();
    for (frame, bytes) in on_side(&capture, Side::Lan) {
        let client = client_of(frame);
        let (seq, syn, data) = segment(bytes);
        sent.extend_from_slice(data);
        let at = seq.wrapping_sub(initial_seqs[&client]) as usize;
        let same = syn || data.is_empty() || streams[client][at..].starts_with(data);
        assert_eq!(
            same,
            frame.metadata.changes.is_empty(),
            "{}",
            frame.metadata
        );
        for Change { asked, given } in &frame.metadata.changes {
            assert_eq!(*asked, 0);
            assert_eq!(numbers.entry(client).or_insert(*given), given);
        }
    }
    assert_eq!(numbers.len(), CLIENTS);
    let on_lan: Vec<u8> = network
        .on_lan
        .iter()
        .flat_map(|p| segment(p).2.to_vec())
        .collect();
    assert!(sent == on_lan, "the LAN received other data");
}

#[test]
fn captured_frames_equal_the_packets() {
    assert_exact_capture(1, Faults::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn captured_frames_equal_the_packets_under_loss_reordering_and_duplication(
        seed in any::<u64>(), loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
    ) {
        assert_exact_capture(seed, Faults { loss, reorder, duplicate });
    }
}

#[test]
fn a_filter_excludes_other_peers() {
    let (peer, side) = (Some("client1".to_owned()), None);
    let (_, capture) = captured(Filter { peer, side }, 2, Faults::default());
    for side in [Side::Tunnel, Side::Lan] {
        assert!(on_side(&capture, side).count() > 3);
    }
    assert!(capture.frames().all(|(frame, _)| client_of(frame) == 1));
}

/// The probe and the resets of a reconnecting client's old connection carry that client's metadata on
/// both sides.
#[test]
fn injected_segments_carry_the_metadata_of_their_flow() {
    let mut network = network(CLIENTS, Mode::Assign, 1);
    log_on(&mut network, 0, 50_000);
    crash(&mut network, 0);
    let (peer, side) = (Some("client0".to_owned()), None);
    network.engine.start_capture(Filter { peer, side });
    log_on(&mut network, 0, 50_001);
    let capture = network.engine.stop_capture();
    let is_reset = |(frame, bytes): (&Frame, &[u8])| {
        let headers = Headers::parse(bytes).unwrap();
        let tcp = TcpPacket::new_checked(&bytes[headers.l4..]).unwrap();
        let inner = frame.metadata.inner.unwrap();
        (tcp.rst() && inner.port == Some(50_000)).then(|| {
            assert_eq!(client_of(frame), 0);
            assert!(frame.metadata.lan.is_some());
            frame.side
        })
    };
    let resets: Vec<_> = capture.frames().filter_map(is_reset).collect();
    // The client's stack rejects the probe, which resets the connection at both ends.
    assert_eq!(resets[0], Side::Tunnel);
    assert!(resets.contains(&Side::Lan), "{resets:?}");
}
