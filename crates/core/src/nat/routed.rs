//! What crosses the gateway as it is: to chosen destinations and back (RFC 6888 REQ-6), and
//! between clients. Nothing is translated; fragments, TTL and MSS are seen to as everywhere.
//!
//! Who may send what to whom was asked before; a later fragment follows only a first one that
//! came this way.

use super::counters::Reason;
use super::endpoint::Side;
use super::fragments::{FragmentKind, FragmentRewrite};
use super::icmp::Refusal;
use super::rewrite::{self, End};
use super::verdict::{Stop, Verdict};
use super::{DeferredPacket, Nat, Outcome, Peers};
use smoltcp::wire::{IpProtocol, TcpPacket, UDP_HEADER_LEN};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

/// Where a packet goes as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// To the LAN, whose kernel lowers its TTL.
    Lan,
    /// From a client to the client of its destination.
    Client,
}

impl Nat {
    /// A client's packet that keeps its source: [`Outcome::Forward`] to the LAN, or
    /// [`Outcome::Hairpin`] to the client that its destination names.
    pub fn route_out(
        &mut self,
        packet: &mut Packet<'_>,
        to: Egress,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let verdict = self.route(packet, Side::Inside, to, peers, now);
        self.conclude(verdict, Side::Inside, packet, peers, now)
    }

    /// A packet of the LAN to a client's own address.
    pub fn route_in(
        &mut self,
        packet: &mut Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let verdict = self.route(packet, Side::Lan, Egress::Client, peers, now);
        self.conclude(verdict, Side::Lan, packet, peers, now)
    }

    fn route(
        &mut self,
        packet: &mut Packet<'_>,
        from: Side,
        to: Egress,
        peers: &dyn Peers,
        now: Instant,
    ) -> Verdict {
        if from == Side::Inside && packet.headers.ttl <= 1 {
            return Err(Stop::Refuse(Reason::Expired, Refusal::TimeExceeded));
        }
        match self.piece(packet, from, peers, now)? {
            // Its sender hears of it by the first piece.
            FragmentKind::Later if to == Egress::Client => {
                self.fits_tunnel(packet).map_err(|_| Reason::TooBig)?;
            }
            FragmentKind::Later => {}
            FragmentKind::Whole => self.begin(packet, to)?,
            FragmentKind::First(key) => {
                self.begin(packet, to)?;
                let way = FragmentRewrite {
                    end: End::Source,
                    ip: packet.headers.src,
                    id: None,
                };
                for piece in self.fragments.resolve(key, way) {
                    self.follow(piece, from, to);
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

    /// What is to be seen to where the L4 header is.
    fn begin(&self, packet: &mut Packet<'_>, to: Egress) -> Result<(), Stop> {
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
            Egress::Client => self.fits_tunnel(packet),
            Egress::Lan => Ok(()),
        }
    }

    /// A piece that waited for its first one goes the same way.
    fn follow(&mut self, mut piece: Vec<u8>, from: Side, to: Egress) {
        let Ok(mut packet) = Packet::parse(&mut piece, Checksum::Complete) else {
            return;
        };
        if to == Egress::Lan {
            self.late.push_back(DeferredPacket::ToLan(piece));
        } else if from == Side::Lan || packet.headers.ttl > 1 {
            if from == Side::Inside {
                rewrite::decrement_ttl(&mut packet);
            }
            if self.fits_tunnel(&packet).is_ok()
                && let Outcome::Forward(_) = self.deliver(&packet, None)
            {
                self.late.push_back(DeferredPacket::ToClient(piece));
            }
        }
    }
}
