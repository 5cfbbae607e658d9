//! A packet too big for the tunnel, cut into pieces, and pieces put together (RFC 791 section 3.2).
//! Pure functions.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TCP_HEADER_LEN, TcpPacket, UdpPacket};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::{Headers, IPV4_HEADER, IPV6_HEADER};
use vcgate_wire::packet::Packet;

/// Cuts an IPv4 packet, or a piece of one, into pieces of at most `mtu` bytes (RFC 791 section
/// 3.2). The caller saw that it has no DF bit.
pub(super) fn cut(packet: &Packet<'_>, mtu: u16) -> Vec<Vec<u8>> {
    let mut whole = packet.to_vec();
    if packet.checksum == Checksum::Partial {
        complete(&mut whole, &packet.headers);
    }
    let (header, payload) = whole.split_at(packet.headers.l4.min(whole.len()));
    let later = of_later_pieces(header);
    let (base, more) = packet
        .headers
        .fragment
        .map_or((0, false), |f| (f.offset, f.more));
    // At least 8 bytes, whatever the MTU.
    let step = (usize::from(mtu).saturating_sub(header.len()) & !7).max(8);
    let mut pieces = Vec::with_capacity(payload.len() / step + 1);
    let mut offset = 0;
    for part in payload.chunks(step) {
        let header = match base == 0 && offset == 0 {
            true => header,
            false => &later,
        };
        let mut piece = [header, part].concat();
        let len = piece.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut piece[..]);
        ip.set_header_len(header.len() as u8);
        ip.set_total_len(len);
        ip.set_frag_offset(base + offset as u16);
        offset += part.len();
        ip.set_more_frags(more || offset < payload.len());
        ip.fill_checksum();
        pieces.push(piece);
    }
    pieces
}

/// An IPv4 header with those options only that every piece has (RFC 791 section 3.1: the copied
/// flag).
fn of_later_pieces(header: &[u8]) -> Vec<u8> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let (fixed, mut rest) = header.split_at(IPV4_HEADER.min(header.len()));
    let mut later = fixed.to_vec();
    loop {
        rest = match rest {
            [] | [END, ..] => break,
            [NOP, tail @ ..] => tail,
            [kind, len, ..] if (2..=rest.len()).contains(&usize::from(*len)) => {
                let (option, tail) = rest.split_at(usize::from(*len));
                if kind & COPIED != 0 {
                    later.extend_from_slice(option);
                }
                tail
            }
            _ => break,
        };
    }
    later.resize(later.len().next_multiple_of(4), END);
    later
}

/// Puts a datagram together of all its pieces, in any order. It may be cut again; of IPv6 it is its
/// only fragment (RFC 6946). `None` if no packet can be so long, or something is no piece.
pub(super) fn join(pieces: Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in &pieces {
        let headers = Headers::parse(piece).ok()?;
        parts.push((headers.fragment?, headers.len, piece));
    }
    parts.sort_by_key(|(fragment, ..)| fragment.offset);
    let (first, _, bytes) = parts.first()?;
    let mut whole = bytes.get(..first.begins)?.to_vec();
    for (fragment, len, bytes) in &parts {
        whole.extend_from_slice(bytes.get(fragment.begins..*len)?);
    }
    let len = whole.len();
    if bytes.first()? >> 4 == 4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut whole[..]);
        ip.set_total_len(len.try_into().ok()?);
        ip.clear_flags();
        ip.fill_checksum();
    } else {
        let payload = len - IPV6_HEADER;
        Ipv6Packet::new_unchecked(&mut whole[..]).set_payload_len(payload.try_into().ok()?);
        // Offset and flags lie in the middle of the 8 bytes of the fragment header.
        whole.get_mut(first.begins - 6..first.begins - 4)?.fill(0);
    }
    Some(whole)
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
