//! A capture of SMB users under loss and reorder: each copy is what passed there, and says of
//! the hook's changes neither more nor less than there is.

use crate::network;
use crate::network::{Faults, Network, inner};
use crate::smb::{server_gets_of, stream};
use crate::stale::{crash, log_on};
use proptest::prelude::*;
use smoltcp::wire::TcpPacket;
use std::collections::HashMap;
use std::net::IpAddr;
use vcgate_core::engine::{CaptureBuffer, Direction, Filter, Frame, Side};
use vcgate_core::smb::{Change, Mode};
use vcgate_wire::ip::Headers;

const CLIENTS: usize = 3;

/// The sequence number, whether it is a SYN, and the data of a segment.
fn segment(bytes: &[u8]) -> (u32, bool, &[u8]) {
    let headers = Headers::parse(bytes).unwrap();
    let tcp = TcpPacket::new_checked(&bytes[headers.l4..headers.len]).unwrap();
    let data = &bytes[headers.l4 + usize::from(tcp.header_len())..headers.len];
    (tcp.seq_number().0 as u32, tcp.syn(), data)
}

/// Which client a frame is of; its story must agree with itself.
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
    server_gets_of(&mut network);
    let catch = network.engine.stop_capture();
    let dropped = [Side::Tunnel, Side::Lan].map(|side| catch.dropped(side));
    assert_eq!(dropped, [0, 0]);
    (network, catch)
}

fn on_side(catch: &CaptureBuffer, side: Side) -> impl Iterator<Item = (&Frame, &[u8])> {
    catch.frames().filter(move |(frame, _)| {
        frame.side == side && frame.metadata.direction == Direction::ToLan
    })
}

fn assert_true_copies(seed: u64, faults: Faults) {
    let (network, catch) = captured(Filter::default(), seed, faults);
    let streams: Vec<_> = (0..CLIENTS).map(stream).collect();
    let mut beginnings = HashMap::new();
    for (frame, bytes) in on_side(&catch, Side::Tunnel) {
        let client = client_of(frame);
        match segment(bytes) {
            (seq, true, _) => drop(beginnings.insert(client, seq.wrapping_add(1))),
            (seq, false, data) => {
                let at = seq.wrapping_sub(beginnings[&client]) as usize;
                assert!(data.is_empty() || streams[client][at..].starts_with(data));
            }
        }
    }
    let mut numbers = HashMap::new();
    let mut sent = Vec::new();
    for (frame, bytes) in on_side(&catch, Side::Lan) {
        let client = client_of(frame);
        let (seq, syn, data) = segment(bytes);
        sent.extend_from_slice(data);
        let at = seq.wrapping_sub(beginnings[&client]) as usize;
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
    assert!(sent == on_lan, "the LAN got something else");
}

#[test]
fn copies_are_true() {
    assert_true_copies(1, Faults::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn copies_are_true_under_loss_reorder_and_duplication(
        seed in any::<u64>(), loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
    ) {
        assert_true_copies(seed, Faults { loss, reorder, duplicate });
    }
}

#[test]
fn a_filter_leaves_the_others_out() {
    let (peer, side) = (Some("client1".to_owned()), None);
    let (_, catch) = captured(Filter { peer, side }, 2, Faults::default());
    for side in [Side::Tunnel, Side::Lan] {
        assert!(on_side(&catch, side).count() > 3);
    }
    assert!(catch.frames().all(|(frame, _)| client_of(frame) == 1));
}

/// A client that begins anew: the probe and the resets of its old connection are told of as its
/// own, at the LAN too.
#[test]
fn segments_of_our_own_are_of_the_flow_that_they_end() {
    let mut network = network(CLIENTS, Mode::Assign, 1);
    log_on(&mut network, 0, 50_000);
    crash(&mut network, 0);
    let (peer, side) = (Some("client0".to_owned()), None);
    network.engine.start_capture(Filter { peer, side });
    log_on(&mut network, 0, 50_001);
    let catch = network.engine.stop_capture();
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
    let resets: Vec<_> = catch.frames().filter_map(is_reset).collect();
    // The client's stack refuses the probe; that ends the connection at both ends.
    assert_eq!(resets[0], Side::Tunnel);
    assert!(resets.contains(&Side::Lan), "{resets:?}");
}
