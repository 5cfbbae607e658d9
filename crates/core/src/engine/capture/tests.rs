use super::buffer::{MAX_BYTES, MAX_PACKETS};
use super::*;
use crate::nat::Reason;
use crate::smb::{Change, VcNumber};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

const ANNA: [u8; 4] = [10, 8, 0, 3];
const BERTA: [u8; 4] = [10, 8, 0, 4];
const LAN: [u8; 4] = [192, 168, 77, 2];
const SERVER: [u8; 4] = [192, 168, 77, 10];
const INNER: u16 = 51112;
const OUTER: u16 = 40021;
const SMB: u16 = 445;

/// A TCP segment with `len` bytes of data.
fn segment(from: ([u8; 4], u16), to: ([u8; 4], u16), len: usize) -> Vec<u8> {
    let total = (40 + len) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.extend([from.0, to.0].concat());
    bytes.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    bytes.resize(usize::from(total), 0xAA);
    bytes
}

fn show(bytes: &mut [u8], to: impl FnOnce(&Packet<'_>)) {
    to(&Packet::parse(bytes, Checksum::Complete).unwrap());
}

/// A tap and the time.
struct Scene(Tap, Instant);

impl Scene {
    fn new(peer: Option<&str>, side: Option<Side>) -> Self {
        let peer = peer.map(str::to_owned);
        Self(Tap::new(Filter { peer, side }), Instant::now())
    }

    fn client_sent(&mut self, name: &str, address: [u8; 4], len: usize) {
        let mut bytes = segment((address, INNER), (SERVER, SMB), len);
        show(&mut bytes, |packet| {
            self.0.client_sent(Some(name), packet, self.1);
        });
    }

    fn leaves_for_lan(&mut self, len: usize) {
        let mut bytes = segment((LAN, OUTER), (SERVER, SMB), len);
        show(&mut bytes, |packet| self.0.leaves_for_lan(packet, self.1));
    }

    fn lan_sent(&mut self, len: usize) {
        let mut bytes = segment((SERVER, SMB), (LAN, OUTER), len);
        show(&mut bytes, |packet| self.0.lan_sent(packet, self.1));
    }

    fn leaves_for_client(&mut self, name: &str, address: [u8; 4], len: usize) {
        let mut bytes = segment((SERVER, SMB), (address, INNER), len);
        show(&mut bytes, |packet| {
            self.0.translated(Some(name), packet);
            self.0
                .leaves_for_client(Some(name), packet, SERVER.into(), self.1);
        });
    }

    /// Takes the sides, the comments and the lengths of the captured packets.
    fn captured(&mut self) -> Vec<(Side, String, usize)> {
        let buffer = self.0.swap(CaptureBuffer::default());
        let frames = buffer.frames();
        frames
            .map(|(frame, bytes)| (frame.side, frame.metadata.to_string(), bytes.len()))
            .collect()
    }

    fn dropped(&mut self) -> [u64; 2] {
        let buffer = self.0.swap(CaptureBuffer::default());
        [Side::Tunnel, Side::Lan].map(|side| buffer.dropped(side))
    }
}

const UP: &str = "anna 10.8.0.3:51112 → 192.168.77.10:445 as 192.168.77.2:40021";
const DOWN: &str = "anna 10.8.0.3:51112 ← 192.168.77.10:445 as 192.168.77.2:40021";

#[test]
fn both_sides_have_the_same_metadata() {
    let mut scene = Scene::new(None, None);
    let change = Change {
        asked: 0,
        given: VcNumber::new(3).unwrap(),
    };
    scene.client_sent("anna", ANNA, 7);
    scene.0.changed([change].into_iter());
    scene.leaves_for_lan(7);
    scene.lan_sent(0);
    scene.leaves_for_client("anna", ANNA, 0);
    let up = format!("{UP}; VcNumber 0 → 3");
    let down = DOWN.to_owned();
    let expected = [
        (Side::Tunnel, up.clone(), 47),
        (Side::Lan, up, 47),
        (Side::Lan, down.clone(), 40),
        (Side::Tunnel, down, 40),
    ];
    assert_eq!(scene.captured(), expected);
    assert_eq!(scene.captured(), []);
}

#[test]
fn a_held_packet_leaves_with_its_own_changes() {
    let mut scene = Scene::new(None, None);
    scene.client_sent("anna", ANNA, 7);
    scene.0.note(Note::Held);
    scene.client_sent("anna", ANNA, 1);
    scene.leaves_for_lan(1);
    let change = Change {
        asked: 0,
        given: VcNumber::new(3).unwrap(),
    };
    scene.0.changed([change].into_iter());
    scene.leaves_for_lan(7);
    let held = "anna 10.8.0.3:51112 → 192.168.77.10:445; held until the bytes before it arrive";
    let expected = [
        (Side::Tunnel, held.to_owned(), 47),
        (Side::Tunnel, UP.to_owned(), 41),
        (Side::Lan, UP.to_owned(), 41),
        (Side::Lan, format!("{UP}; VcNumber 0 → 3"), 47),
    ];
    assert_eq!(scene.captured(), expected);
}

#[test]
fn a_filter_keeps_one_peer_and_one_side() {
    let traffic = |scene: &mut Scene| {
        scene.client_sent("berta", BERTA, 1);
        scene.leaves_for_lan(1);
        scene.lan_sent(2);
        scene.leaves_for_client("berta", BERTA, 2);
        scene.client_sent("anna", ANNA, 3);
        scene.leaves_for_lan(3);
        scene.lan_sent(4);
        scene.leaves_for_client("anna", ANNA, 4);
        // For no client.
        scene.lan_sent(5);
        scene.0.note(Note::Dropped(Reason::NoMapping));
    };
    let lengths = |peer, side| -> Vec<usize> {
        let mut scene = Scene::new(peer, side);
        traffic(&mut scene);
        scene.captured().iter().map(|(.., len)| len - 40).collect()
    };
    assert_eq!(lengths(None, None), [1, 1, 2, 2, 3, 3, 4, 4, 5]);
    assert_eq!(lengths(Some("anna"), None), [3, 3, 4, 4]);
    assert_eq!(lengths(Some("anna"), Some(Side::Tunnel)), [3, 4]);
    assert_eq!(lengths(None, Some(Side::Lan)), [1, 2, 3, 4, 5]);
    let (only, lan) = (Some("anna"), Some(Side::Lan));
    assert_eq!(lengths(only, lan), [3, 4]);
}

#[test]
fn packets_of_our_own_have_the_metadata_of_their_flow() {
    let mut scene = Scene::new(Some("anna"), None);
    scene.client_sent("berta", BERTA, 0);
    let end = |address: [u8; 4], port| End {
        address: address.into(),
        port: Some(port),
    };
    let (inner, lan, remote) = (end(ANNA, INNER), end(LAN, OUTER), end(SERVER, SMB));
    scene.0.about(Some("anna"), inner, lan, remote);
    scene.leaves_for_lan(0);
    scene.leaves_for_client("anna", ANNA, 0);
    let expected = [
        (Side::Lan, UP.to_owned(), 40),
        (Side::Tunnel, DOWN.to_owned(), 40),
    ];
    assert_eq!(scene.captured(), expected);
}

#[test]
fn packets_without_space_are_counted_until_the_buffer_is_taken() {
    let mut scene = Scene::new(Some("anna"), None);
    let packet = 60_000;
    let fit = MAX_BYTES / (packet + 40);
    for _ in 0..fit / 2 + 10 {
        scene.client_sent("anna", ANNA, packet);
        scene.leaves_for_lan(packet);
        // Not wanted, so not counted as dropped.
        scene.client_sent("berta", BERTA, packet);
        scene.lan_sent(packet);
        scene.leaves_for_client("berta", BERTA, packet);
    }
    for _ in 0..3 {
        scene.lan_sent(packet);
        scene.leaves_for_client("anna", ANNA, packet);
    }
    let buffer = scene.0.swap(CaptureBuffer::default());
    let kept = buffer.frames().count() as u64;
    assert_eq!(kept, fit as u64);
    let dropped = buffer.dropped(Side::Tunnel) + buffer.dropped(Side::Lan);
    assert_eq!(kept + dropped, (fit as u64 / 2 + 10 + 3) * 2);
    scene.client_sent("anna", ANNA, packet);
    assert_eq!(scene.dropped(), [0, 0]);
}

#[test]
fn the_number_of_packets_is_bounded() {
    let mut scene = Scene::new(None, Some(Side::Tunnel));
    for _ in 0..MAX_PACKETS + 3 {
        scene.client_sent("anna", ANNA, 0);
    }
    assert_eq!(scene.dropped(), [3, 0]);
}
