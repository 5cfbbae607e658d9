//! A packet too big for the tunnel, cut into pieces (RFC 791 section 3.2). A pure function.

use crate::wire::checksum::Checksum;
use crate::wire::ip::Headers;
use crate::wire::packet::Packet;
use smoltcp::wire::{IpProtocol, Ipv4Packet, TCP_HEADER_LEN, TcpPacket, UdpPacket};

/// Cuts an IPv4 packet, or a piece of one, into pieces of at most `mtu` bytes (RFC 791 section
/// 3.2). The caller saw that it has no DF bit. All options are repeated in every piece.
pub(super) fn cut(packet: &Packet<'_>, mtu: u16) -> Vec<Vec<u8>> {
    let mut whole = packet.to_vec();
    if packet.checksum == Checksum::Partial {
        complete(&mut whole, &packet.headers);
    }
    let (header, payload) = whole.split_at(packet.headers.l4.min(whole.len()));
    let (base, more) = packet
        .headers
        .fragment
        .map_or((0, false), |f| (f.offset, f.more));
    // At least 8 bytes, whatever the MTU.
    let step = (usize::from(mtu).saturating_sub(header.len()) & !7).max(8);
    let mut pieces = Vec::with_capacity(payload.len() / step + 1);
    let mut offset = 0;
    for part in payload.chunks(step) {
        let mut piece = [header, part].concat();
        let len = piece.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut piece[..]);
        ip.set_total_len(len);
        ip.set_frag_offset(base + offset as u16);
        offset += part.len();
        ip.set_more_frags(more || offset < payload.len());
        ip.fill_checksum();
        pieces.push(piece);
    }
    pieces
}

/// Completes the L4 checksum of a packet whose field holds the pseudo-header sum.
fn complete(whole: &mut [u8], headers: &Headers) {
    let (src, dst) = (headers.src.into(), headers.dst.into());
    let Some(l4) = whole.get_mut(headers.l4..) else {
        return;
    };
    match headers.protocol {
        IpProtocol::Tcp if l4.len() >= TCP_HEADER_LEN => {
            TcpPacket::new_unchecked(l4).fill_checksum(&src, &dst);
        }
        IpProtocol::Udp => {
            if let Ok(mut udp) = UdpPacket::new_checked(l4) {
                udp.fill_checksum(&src, &dst);
            }
        }
        _ => {}
    }
}
