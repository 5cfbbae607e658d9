//! The addresses of vcgate on the LAN: one of IPv6, and of IPv4 a pool that clients share and
//! addresses of single peers.
//!
//! A peer is paired with one address of each family for all its flows (RFC 4787 REQ-2): its own one,
//! or always the same one of the pool. This module knows no ports.

use super::endpoint::{Family, LanId};
use super::settings::Settings;
use crate::ids::{PeerId, ShardId};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All addresses on the LAN. An id is never reused for another address.
#[derive(Debug)]
pub(super) struct LanAddresses {
    /// By id.
    all: Vec<LanAddress>,
    has_ipv6: bool,
    /// The ids of the addresses other than the first one of each family.
    further: HashMap<IpAddr, LanId>,
    /// The number of IPv4 addresses that clients share.
    pool: u32,
    /// Addresses of peers that do not follow from their ids: own ones, and those of the last run.
    paired: HashMap<PeerId, LanId>,
    shard: ShardId,
}

#[derive(Debug, Clone, Copy)]
struct LanAddress {
    address: IpAddr,
    /// The only peer that uses it; `None` for shared addresses and for former ones of a peer.
    owner: Option<PeerId>,
}

impl LanAddresses {
    pub(super) fn new(settings: &Settings) -> Self {
        let shared = |address| LanAddress {
            address,
            owner: None,
        };
        let address6 = settings.address6.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let mut addresses = Self {
            all: vec![shared(settings.address.into()), shared(address6.into())],
            has_ipv6: settings.address6.is_some(),
            further: HashMap::new(),
            pool: 1,
            paired: HashMap::new(),
            shard: settings.shard,
        };
        for address in &settings.pool {
            if addresses.id_of((*address).into()).is_none() {
                addresses.add(shared((*address).into()));
                addresses.pool += 1;
            }
        }
        addresses
    }

    /// Returns the first LAN address of the family of `like`.
    pub(super) fn first(&self, like: IpAddr) -> Option<IpAddr> {
        let family = Family::of(like);
        let exists = family == Family::V4 || self.has_ipv6;
        exists.then(|| self.all[family as usize].address)
    }

    /// Returns the id of a LAN address.
    pub(super) fn id_of(&self, address: IpAddr) -> Option<LanId> {
        let first = LanId::first(Family::of(address));
        if self.all[first.index()].address == address {
            return (first == LanId::first(Family::V4) || self.has_ipv6).then_some(first);
        }
        // Most gateways have one address: skip the hash.
        match self.further.is_empty() {
            true => None,
            false => self.further.get(&address).copied(),
        }
    }

    /// Returns whether this is a LAN address of vcgate.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.id_of(address).is_some()
    }

    /// Returns the address with this id.
    pub(super) fn address(&self, id: LanId) -> IpAddr {
        self.all[id.index()].address
    }

    /// Returns the only peer that uses an address, if it is not shared.
    pub(super) fn owner(&self, id: LanId) -> Option<PeerId> {
        self.all[id.index()].owner
    }

    /// Returns the address with which a peer is paired.
    pub(super) fn of_peer(&self, peer: PeerId, family: Family) -> LanId {
        let paired = self.paired.get(&peer).filter(|_| family == Family::V4);
        paired.copied().unwrap_or_else(|| match family {
            Family::V4 => match peer.0 / u32::from(self.shard.of()) % self.pool {
                0 => LanId::first(Family::V4),
                n => LanId::pooled(n),
            },
            Family::V6 => LanId::first(Family::V6),
        })
    }

    /// Pairs a peer with the shared IPv4 address that it had in the last run, unless it has an address
    /// of its own now.
    pub(super) fn keep_pair(&mut self, peer: PeerId, id: LanId) {
        let n = id.index();
        let further = Family::COUNT..Family::COUNT + self.pool as usize - 1;
        if id == LanId::first(Family::V4) || further.contains(&n) {
            self.paired.entry(peer).or_insert(id);
        }
    }

    /// Gives a peer an address of its own, or takes it away; returns whether that is a change.
    pub(super) fn set_own(&mut self, peer: PeerId, address: Option<Ipv4Addr>) -> bool {
        let address = address.map(IpAddr::V4);
        let before = self.paired.get(&peer).copied();
        if before.map(|id| self.address(id)) == address {
            return false;
        }
        if let Some(before) = before {
            self.all[before.index()].owner = None;
            self.paired.remove(&peer);
        }
        if let Some(address) = address {
            let owner = Some(peer);
            let id = match self.id_of(address) {
                Some(known) => {
                    self.all[known.index()].owner = owner;
                    known
                }
                None => self.add(LanAddress { address, owner }),
            };
            self.paired.insert(peer, id);
        }
        true
    }

    fn add(&mut self, entry: LanAddress) -> LanId {
        let id = LanId::from_index(self.all.len());
        self.all.push(entry);
        self.further.insert(entry.address, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LAN, LAN6, settings};
    use super::*;

    #[test]
    fn rfc4787_req2_a_peer_is_paired_with_one_address() {
        let pool = [3, 4, 5].map(|n| Ipv4Addr::new(192, 168, 77, n));
        for shard in ShardId::all(3) {
            let mut addresses = LanAddresses::new(&Settings {
                pool: pool.to_vec(),
                shard,
                ..settings()
            });
            let own = (0..24).map(PeerId).filter(|peer| shard.owns(peer.0));
            let of = |addresses: &LanAddresses, peer| {
                addresses.address(addresses.of_peer(peer, Family::V4))
            };
            let mut counts = HashMap::new();
            for peer in own {
                *counts.entry(of(&addresses, peer)).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), 4, "all addresses are used");
            assert!(counts.values().all(|count| *count == 2));
            let v6 = addresses.of_peer(PeerId(9), Family::V6);
            assert_eq!(addresses.address(v6), IpAddr::from(LAN6));
            assert_eq!(addresses.id_of(LAN.into()), Some(LanId::first(Family::V4)));
            let other = Ipv4Addr::new(192, 168, 77, 50);
            assert!(!addresses.contains(other.into()));
            assert!(addresses.set_own(PeerId(9), Some(other)));
            assert!(!addresses.set_own(PeerId(9), Some(other)));
            assert_eq!(of(&addresses, PeerId(9)), other);
            let id = addresses.id_of(other.into()).unwrap();
            assert_eq!(addresses.owner(id), Some(PeerId(9)));
            assert!(addresses.set_own(PeerId(9), None));
            assert_eq!(addresses.owner(id), None);
            assert_ne!(of(&addresses, PeerId(9)), other);
        }
    }
}
