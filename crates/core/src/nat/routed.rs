//! Forwards packets without translation: to chosen destinations and back (RFC 6888 REQ-6), and
//! between clients. TTL, MSS, MTU and fragments are handled as for translated packets.
//!
//! The caller has decided that the sender may reach the destination; a later fragment is forwarded
//! only after the first one of its datagram.

use super::endpoint::Side;
use super::fragments::{FragmentKind, FragmentRewrite};
use super::icmp_error::Refusal;
use super::outcome::{DeferredPacket, Outcome, Reason, Stop, Verdict};
use super::rewrite::{self, End};
use super::{Context, Nat, Peers};
use crate::ids::PeerId;
use smoltcp::wire::{IpProtocol, TcpPacket, UDP_HEADER_LEN};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

/// The way on which an untranslated packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// To the LAN, whose kernel decrements the TTL.
    Lan,
    /// To the client that its destination names.
    Client,
}

impl Nat {
    /// Forwards a client's packet that keeps its source: [`Outcome::Forward`] to the LAN, or
    /// [`Outcome::Hairpin`] to the client that its destination names.
    pub fn route_out(
        &mut self,
        packet: &mut Packet<'_>,
        to: Egress,
        sender: PeerId,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let cx = Context::of_client(sender, peers, now);
        let verdict = self.route(packet, Side::Inside, to, &cx);
        self.conclude(verdict, Side::Inside, packet, &cx)
    }

    /// Forwards a packet of the LAN to a client's own address.
    pub fn route_in(
        &mut self,
        packet: &mut Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let cx = Context::of_lan(peers, now);
        let verdict = self.route(packet, Side::Lan, Egress::Client, &cx);
        self.conclude(verdict, Side::Lan, packet, &cx)
    }

    fn route(
        &mut self,
        packet: &mut Packet<'_>,
        from: Side,
        to: Egress,
        cx: &Context<'_>,
    ) -> Verdict {
        if from == Side::Inside && packet.headers.ttl <= 1 {
            return Err(Stop::Refuse(Reason::Expired, Refusal::TimeExceeded));
        }
        match self.handle_fragment(packet, from, cx)? {
            FragmentKind::Later if to == Egress::Client => {
                // The first fragment was answered with an error.
                self.check_mtu(packet).map_err(|_| Reason::TooBig)?;
            }
            FragmentKind::Later => {}
            FragmentKind::Whole => self.check_l4(packet, to)?,
            FragmentKind::First(key) => {
                self.check_l4(packet, to)?;
                let rewrite = FragmentRewrite {
                    end: End::Source,
                    ip: packet.headers.src,
                    id: None,
                };
                for fragment in self.fragments.resolve(key, rewrite) {
                    self.route_held(fragment, from, to);
                }
            }
        }
        if to == Egress::Lan {
            return Ok(Outcome::Forward(None));
        }
        if from == Side::Inside {
            rewrite::decrement_ttl(packet);
        }
        Ok(match self.deliver(packet, None) {
            Outcome::Forward(_) if from == Side::Inside => Outcome::Hairpin(Box::default()),
            outcome => outcome,
        })
    }

    /// Checks the L4 header and the length, and clamps the MSS of a SYN.
    fn check_l4(&self, packet: &mut Packet<'_>, to: Egress) -> Result<(), Stop> {
        let l4 = packet.l4();
        match packet.headers.protocol {
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(l4).map_err(|_| Reason::Truncated)?;
                if tcp.syn() {
                    rewrite::clamp_mss(packet, self.settings.mtu);
                }
            }
            IpProtocol::Udp if l4.len() < UDP_HEADER_LEN => return Err(Reason::Truncated.into()),
            _ => {}
        }
        match to {
            Egress::Client => self.check_mtu(packet),
            Egress::Lan => Ok(()),
        }
    }

    /// Forwards a fragment that waited for the first one.
    fn route_held(&mut self, mut fragment: Vec<u8>, from: Side, to: Egress) {
        let Ok(mut packet) = Packet::parse(&mut fragment, Checksum::Complete) else {
            return;
        };
        if to == Egress::Lan {
            self.deferred.push_back(DeferredPacket::ToLan(fragment));
        } else if from == Side::Lan || packet.headers.ttl > 1 {
            if from == Side::Inside {
                rewrite::decrement_ttl(&mut packet);
            }
            if self.delivers_whole(&packet) {
                self.deferred.push_back(DeferredPacket::ToClient(fragment));
            }
        }
    }
}
