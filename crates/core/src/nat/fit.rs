//! What goes into the tunnel fits, or is cut, or its sender hears what would fit (RFC 4787 REQ-13).

use super::counters::Reason;
use super::cut::cut;
use super::icmp::Refusal;
use super::l4;
use super::verdict::Stop;
use super::{DeferredPacket, FlowRef, Nat, Outcome};
use smoltcp::wire::IpProtocol;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::split::Split;
use vcgate_wire::virtio_net::{Gso, Header};

impl Nat {
    /// What is too big for the tunnel and not to be fragmented is refused. The packet has an L4
    /// header, or is no super-packet.
    pub(super) fn fits_tunnel(&self, packet: &Packet<'_>) -> Result<(), Stop> {
        let mtu = self.settings.mtu;
        if longest(packet) <= usize::from(mtu) || !packet.headers.dont_fragment {
            return Ok(());
        }
        Err(Stop::Refuse(Reason::TooBig, Refusal::TooBig(mtu)))
    }

    /// A packet that [`fits_tunnel`](Self::fits_tunnel) goes to its client, in pieces if it must.
    pub(super) fn deliver(&mut self, packet: &Packet<'_>, flow: Option<FlowRef>) -> Outcome {
        let mtu = self.settings.mtu;
        if longest(packet) <= usize::from(mtu) || packet.headers.dont_fragment {
            return Outcome::Forward(flow);
        }
        let mut send = |pieces: Vec<_>| {
            self.late
                .extend(pieces.into_iter().map(DeferredPacket::ToClient))
        };
        match packet.segment {
            None => send(cut(packet, mtu)),
            Some(size) => {
                for mut segment in segments(packet, size) {
                    if let Ok(segment) = Packet::parse(&mut segment, Checksum::Complete) {
                        send(cut(&segment, mtu));
                    }
                }
            }
        }
        Outcome::Held
    }
}

/// The length of a packet, or of a super-packet's longest segment, in bytes.
fn longest(packet: &Packet<'_>) -> usize {
    match packet.segment {
        None => packet.headers.len,
        Some(payload) => packet.headers.l4 + l4::header_len(packet) + usize::from(payload),
    }
}

/// The segments of a super-packet that may be fragmented: it is IPv4.
fn segments(packet: &Packet<'_>, size: u16) -> Vec<Vec<u8>> {
    let vnet = Header {
        gso: match packet.headers.protocol {
            IpProtocol::Tcp => Gso::TcpV4,
            _ => Gso::UdpL4,
        },
        gso_size: size,
        ..Header::default()
    };
    let mut whole = packet.to_vec();
    let split = Split::new(&vnet, &packet.headers, &whole);
    split.map_or_else(Vec::new, |mut split| {
        std::iter::from_fn(|| split.next(&mut whole).map(|place| whole[place].to_vec())).collect()
    })
}
