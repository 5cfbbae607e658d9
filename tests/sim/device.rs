//! The simulated TUN device and UDP socket: the packets that they pass to the engine, and those that
//! it passes to them.

use std::io::IoSlice;
use std::net::SocketAddr;
use vcgate_core::engine::{Output, ShardMessage};
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::coalesce::{MergeResult, Run, Segment};
use vcgate_wire::ip::Headers;
use vcgate_wire::split::{self, Split};
use vcgate_wire::virtio_net::{Gso, Header};

/// Merges consecutive segments of a flow, as a TUN device with offloads does.
pub(crate) fn as_super_packets(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut run: Option<Run> = None;
    for packet in packets {
        let place = buffer.len()..buffer.len() + packet.len();
        buffer.extend(packet);
        let segment = Headers::parse(packet)
            .ok()
            .and_then(|h| Segment::classify(&h, packet));
        if let (Some(run), Some(segment)) = (&mut run, &segment)
            && run.try_merge(segment, place.clone(), &buffer) == MergeResult::Merged
        {
            continue;
        }
        if let Some(run) = run.take() {
            all.push(finished(&run, &mut buffer));
        }
        match segment {
            Some(segment) => run = Some(Run::new(segment, place)),
            None => all.push(on_tun(&Header::default(), packet)),
        }
    }
    all.extend(run.map(|run| finished(&run, &mut buffer)));
    all
}

fn finished(run: &Run, buffer: &mut [u8]) -> Vec<u8> {
    let (_, _, header, pieces) = run.finish(buffer);
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|p| buffer[p.clone()].to_vec())
        .collect();
    on_tun(&header, &bytes)
}

/// Prepends the virtio_net header to a packet.
pub(crate) fn on_tun(header: &Header, packet: &[u8]) -> Vec<u8> {
    [&header.encode()[..], packet].concat()
}

/// The output of the engine during one call, split as by the kernel's GSO.
#[derive(Default)]
pub(crate) struct EngineOutput {
    pub(crate) datagrams: Vec<(SocketAddr, Ecn, Vec<u8>)>,
    pub(crate) lan: Vec<Vec<u8>>,
    pub(crate) messages: Vec<(u8, ShardMessage)>,
}

impl Output for EngineOutput {
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) {
        assert!(segment > 0 && !bytes.is_empty());
        let segments = bytes.chunks(segment);
        self.datagrams
            .extend(segments.map(|b| (path.remote, ecn, b.to_vec())));
    }

    fn to_shard(&mut self, shard: u8, messages: ShardMessage) {
        self.messages.push((shard, messages));
    }

    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]) {
        let mut packet: Vec<u8> = pieces.iter().flat_map(|p| p.to_vec()).collect();
        let headers = Headers::parse(&packet).expect("the engine sends whole packets");
        assert_eq!(headers.len, packet.len());
        if header.gso == Gso::None {
            if header.needs_csum {
                assert!(split::complete(header, &headers, &mut packet));
            }
            return self.lan.push(packet);
        }
        let mut segments = Split::new(header, &headers, &packet).expect("a valid super-packet");
        while let Some(place) = segments.next(&mut packet) {
            assert!(place.len() <= 1500);
            self.lan.push(packet[place].to_vec());
        }
    }
}
