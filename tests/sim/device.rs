//! The packets that a TUN device passes to its reader.

use vcgate_wire::coalesce::{MergeResult, Run, Segment};
use vcgate_wire::ip::Headers;
use vcgate_wire::virtio_net::Header;

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
