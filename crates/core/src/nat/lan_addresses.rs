//! The addresses of vcgate on the LAN: one of IPv6, and of IPv4 a pool that clients share and
//! addresses of single peers.
//!
//! A peer is paired with one address of each family for all its flows (RFC 4787 REQ-2): its own one,
//! or always the same one of the pool. Addresses of IPv4 can come and go; see
//! [`address_changes`](super::address_changes). This module knows no ports.

use super::Nat;
use super::endpoint::{Family, LanId};
use super::settings::Settings;
use crate::ids::{PeerId, ShardId};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum number of addresses, by the size of [`LanId`].
const MAX_ADDRESSES: usize = 1 << 16;

/// All addresses on the LAN. The first one of each family never changes.
#[derive(Debug)]
pub(super) struct LanAddresses {
    /// By id; that of an id in `free` is out of use.
    all: Vec<LanAddress>,
    free: Vec<LanId>,
    has_ipv6: bool,
    /// The ids of the addresses other than the first one of each family.
    further: HashMap<IpAddr, LanId>,
    /// The IPv4 addresses that clients share.
    pool: Vec<LanId>,
    /// Addresses of peers that do not follow from their ids: own ones, and shared ones that a peer had
    /// before the pool changed, or in the last run.
    paired: HashMap<PeerId, LanId>,
    shard: ShardId,
}

#[derive(Debug, Clone, Copy)]
struct LanAddress {
    address: IpAddr,
    /// The only peer that uses it; `None` for shared addresses.
    owner: Option<PeerId>,
}

/// The use of one LAN address by the clients of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanAddressUsage {
    /// The address.
    pub address: IpAddr,
    /// The number of inner addresses with port blocks or flows there.
    pub clients: u32,
    /// The number of ports that these have in blocks.
    pub ports: u32,
}

/// The reason why vcgate cannot use an address on the LAN. Each message names the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LanAddressError {
    /// The address has another use.
    #[error(
        "cannot use {0} on the LAN: other clients use it already; choose a free address of the LAN"
    )]
    InUse(Ipv4Addr),
    /// There are too many addresses.
    #[error(
        "cannot use {0} on the LAN: there are 65536 LAN addresses already; remove others first"
    )]
    TooMany(Ipv4Addr),
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
            free: Vec::new(),
            has_ipv6: settings.address6.is_some(),
            further: HashMap::new(),
            pool: vec![LanId::first(Family::V4)],
            paired: HashMap::new(),
            shard: settings.shard,
        };
        for address in &settings.pool {
            if !addresses.contains((*address).into()) {
                addresses.add_shared(*address);
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

    /// Returns the address that only this peer uses.
    pub(super) fn own(&self, peer: PeerId) -> Option<LanId> {
        let paired = self.paired.get(&peer).copied();
        paired.filter(|id| self.owner(*id) == Some(peer))
    }

    /// Returns the addresses that clients share, the first one first.
    pub(super) fn pool(&self) -> &[LanId] {
        &self.pool
    }

    /// Iterates over the ids of all addresses.
    fn ids(&self) -> impl Iterator<Item = LanId> + '_ {
        let six = self.has_ipv6.then(|| LanId::first(Family::V6));
        let first = [LanId::first(Family::V4)].into_iter().chain(six);
        first.chain(self.further.values().copied())
    }

    /// Returns the address with which a peer is paired.
    pub(super) fn of_peer(&self, peer: PeerId, family: Family) -> LanId {
        let paired = self.paired.get(&peer).filter(|_| family == Family::V4);
        paired.copied().unwrap_or_else(|| match family {
            Family::V4 => {
                let number = peer.0 / u32::from(self.shard.of());
                self.pool[number as usize % self.pool.len()]
            }
            Family::V6 => LanId::first(Family::V6),
        })
    }

    /// Pairs a peer with a shared IPv4 address that it has had so far, whatever the pool will be. An
    /// address of its own comes first.
    pub(super) fn keep_pair(&mut self, peer: PeerId, id: LanId) {
        if self.pool.contains(&id) {
            self.paired.entry(peer).or_insert(id);
        }
    }

    /// Forgets with which address a peer was paired. An address of its own must be removed first.
    pub(super) fn unpair(&mut self, peer: PeerId) {
        self.paired.remove(&peer);
    }

    /// Adds an address that clients share, which must not be in use.
    pub(super) fn add_shared(&mut self, address: Ipv4Addr) {
        let id = self.add(address, None);
        self.pool.push(id);
    }

    /// Adds an address that only this peer uses, which must not be in use; the peer must have no other.
    pub(super) fn add_own(&mut self, peer: PeerId, address: Ipv4Addr) -> LanId {
        let id = self.add(address, Some(peer));
        self.paired.insert(peer, id);
        id
    }

    /// Removes an address, of which nothing may be in use any more. The first ones stay.
    pub(super) fn remove(&mut self, id: LanId) {
        if self.further.remove(&self.address(id)) != Some(id) {
            return;
        }
        self.pool.retain(|shared| *shared != id);
        self.paired.retain(|_, paired| *paired != id);
        self.all[id.index()].owner = None;
        self.free.push(id);
    }

    /// Returns the number of addresses that can be added.
    pub(super) fn capacity(&self) -> usize {
        MAX_ADDRESSES - self.all.len() + self.free.len()
    }

    fn add(&mut self, address: Ipv4Addr, owner: Option<PeerId>) -> LanId {
        let address = IpAddr::V4(address);
        let entry = LanAddress { address, owner };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id.index()] = entry;
                id
            }
            None => {
                self.all.push(entry);
                LanId::from_index(self.all.len() - 1)
            }
        };
        self.further.insert(address, id);
        id
    }
}

impl Nat {
    /// Returns the use of each LAN address by the clients of this shard, in no order.
    pub fn lan_usage(&self) -> Vec<LanAddressUsage> {
        let usage = |id| LanAddressUsage {
            address: self.lan.address(id),
            clients: 0,
            ports: 0,
        };
        let mut all: HashMap<LanId, LanAddressUsage> =
            self.lan.ids().map(|id| (id, usage(id))).collect();
        for (_, client) in self.clients.iter() {
            if let Some(usage) = all.get_mut(&client.lan) {
                usage.clients += 1;
                usage.ports += client.ports();
            }
        }
        all.into_values().collect()
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
            let id = addresses.add_own(PeerId(9), other);
            assert_eq!(of(&addresses, PeerId(9)), other);
            assert_eq!(addresses.id_of(other.into()), Some(id));
            assert_eq!(addresses.owner(id), Some(PeerId(9)));
            addresses.remove(id);
            assert!(!addresses.contains(other.into()));
            assert_ne!(of(&addresses, PeerId(9)), other);
            assert_eq!(
                addresses.add_own(PeerId(8), other),
                id,
                "ids are used again"
            );
        }
    }
}
