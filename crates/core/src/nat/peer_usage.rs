//! What each peer has of what is limited (RFC 6888 REQ-4 and REQ-5).
//!
//! A peer answers for all its inner addresses: a site with a whole network behind it has no more
//! than anybody else. Which addresses are a peer's, others know ([`Peers`]).

use super::Nat;
use super::counters::Reason;
use super::endpoint::{Family, Side};
use super::settings::Limits;
use crate::ids::PeerId;
use crate::token_bucket::{Rate, TokenBucket};
use std::net::IpAddr;
use std::time::Instant;

/// As many peers may be told all that one may be told, at a time.
const MAX_ERROR_BURST: u32 = 16;

/// Says whose an inner address is.
pub trait Peers {
    /// The peer that a client's address belongs to, if it is anybody's.
    fn of(&self, client: IpAddr) -> Option<PeerId>;
}

/// What one peer has.
#[derive(Debug)]
pub(super) struct PeerUsage {
    /// Inner addresses that have anything.
    pub clients: u32,
    /// Port blocks, by family.
    pub blocks: [u16; Family::COUNT],
    pub sessions: u32,
    /// By who opens them.
    new_sessions: [TokenBucket; 2],
    /// ICMP errors that it gets from the NAT itself.
    pub errors: TokenBucket,
}

impl PeerUsage {
    fn new(now: Instant) -> Self {
        Self {
            clients: 0,
            blocks: [0; Family::COUNT],
            sessions: 0,
            new_sessions: [TokenBucket::full(now); 2],
            errors: TokenBucket::full(now),
        }
    }

    /// Whether this side may open one more of its sessions now; if so, it counts. Strangers on the
    /// LAN have half of them and a rate of their own: the rest is the peer's.
    pub(super) fn admit(&mut self, by: Side, limits: &Limits, now: Instant) -> Result<(), Reason> {
        let most = match by {
            Side::Inside => limits.sessions,
            Side::Lan => limits.sessions / 2,
        };
        if self.sessions >= most {
            return Err(Reason::Sessions);
        }
        if !self.new_sessions[by as usize].take(Rate::per_second(limits.new_sessions), now) {
            return Err(Reason::Rate);
        }
        self.sessions += 1;
        Ok(())
    }
}

/// By peer id.
#[derive(Debug, Default)]
pub(super) struct PeerUsageTable(Vec<PeerUsage>);

impl PeerUsageTable {
    /// What a peer has, to be changed.
    pub(super) fn of(&mut self, peer: PeerId, now: Instant) -> &mut PeerUsage {
        let at = peer.0 as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || PeerUsage::new(now));
        }
        &mut self.0[at]
    }

    /// The same for a peer that was asked for before.
    pub(super) fn known(&mut self, peer: PeerId) -> &mut PeerUsage {
        &mut self.0[peer.0 as usize]
    }

    /// Whether any of its addresses has anything.
    pub(super) fn has_clients(&self, peer: PeerId) -> bool {
        let holder = self.0.get(peer.0 as usize);
        holder.is_some_and(|holder| holder.clients > 0)
    }
}

impl Nat {
    /// Whether a peer may be told one more thing by an ICMP error now.
    pub(super) fn may_send_error(&mut self, peer: PeerId, now: Instant) -> bool {
        let limit = self.settings.limits.errors;
        let own = &mut self.clients.holders.of(peer, now).errors;
        let all = Rate::per_second(limit.saturating_mul(MAX_ERROR_BURST));
        own.take(Rate::per_second(limit), now) && self.errors[Side::Inside as usize].take(all, now)
    }

    /// The same for the LAN.
    pub(super) fn may_send_lan_error(&mut self, now: Instant) -> bool {
        let limit = Rate::per_second(self.settings.limits.errors);
        self.errors[Side::Lan as usize].take(limit, now)
    }
}
