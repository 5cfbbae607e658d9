//! LAN addresses that come and go while there are flows: those of the pool, and those of single peers.
//!
//! The flows of an address that is removed end, and are reported as severed; all others continue, and
//! each peer with flows keeps its address. Nothing of a removed address is left, so its id can become
//! that of another one. An address that changes its use must be removed in all shards before it is
//! added again, since shards divide the ports of a shared address.

use super::Nat;
use super::endpoint::{Family, LanId};
use super::lan_addresses::LanAddressError;
use crate::ids::PeerId;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

impl Nat {
    /// Replaces the LAN addresses that clients share, except for the first one, which always remains.
    /// Forwards and flows of addresses that are removed end.
    ///
    /// # Errors
    /// If an address has another use; nothing has changed then.
    pub fn set_pool(&mut self, pool: &[Ipv4Addr], now: Instant) -> Result<(), LanAddressError> {
        let before = self.lan.pool().to_vec();
        let mut added = Vec::new();
        for address in pool {
            match self.lan.id_of((*address).into()) {
                Some(known) if before.contains(&known) => {}
                Some(_) => return Err(LanAddressError::InUse(*address)),
                None if added.contains(address) => {}
                None if added.len() == self.lan.capacity() => {
                    return Err(LanAddressError::TooMany(*address));
                }
                None => added.push(*address),
            }
        }
        let clients = self.clients.iter().map(|(_, c)| (c.peer, c.lan));
        for (peer, lan) in clients.collect::<Vec<_>>() {
            self.lan.keep_pair(peer, lan);
        }
        for id in before.into_iter().skip(1) {
            let stays = |address: &Ipv4Addr| self.lan.address(id) == *address;
            if !pool.iter().any(stays) {
                self.remove_address(id, now);
            }
        }
        added
            .into_iter()
            .for_each(|address| self.lan.add_shared(address));
        Ok(())
    }

    /// Gives a peer an IPv4 address on the LAN that no other peer uses, or takes it away. Its IPv4
    /// flows end if that is a change.
    ///
    /// # Errors
    /// If the address has another use; nothing has changed then.
    pub fn set_lan_address(
        &mut self,
        peer: PeerId,
        address: Option<Ipv4Addr>,
        now: Instant,
    ) -> Result<(), LanAddressError> {
        let before = self.lan.own(peer);
        if before.map(|id| self.lan.address(id)) == address.map(IpAddr::V4) {
            return Ok(());
        }
        if let Some(address) = address {
            if self.lan.contains(address.into()) {
                return Err(LanAddressError::InUse(address));
            }
            if before.is_none() && self.lan.capacity() == 0 {
                return Err(LanAddressError::TooMany(address));
            }
        }
        let is_ipv4 = |lan: LanId| lan != LanId::first(Family::V6);
        self.remove_clients(|client| client.peer == peer && is_ipv4(client.lan), now);
        if let Some(before) = before {
            self.remove_address(before, now);
        }
        self.lan.unpair(peer);
        if let Some(address) = address {
            let id = self.lan.add_own(peer, address);
            self.ports.own_all(id);
        }
        Ok(())
    }

    /// Closes all flows of a removed peer, and releases its ports and its own LAN address.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        // Most peers have no flows: skip the scan of all clients.
        if self.clients.peers.has_clients(peer) {
            self.remove_clients(|client| client.peer == peer, now);
        }
        if let Some(own) = self.lan.own(peer) {
            self.remove_address(own, now);
        }
        self.lan.unpair(peer);
    }

    /// Removes an address with its flows, forwards, ports and held SYNs.
    fn remove_address(&mut self, lan: LanId, now: Instant) {
        self.remove_clients(|client| client.lan == lan, now);
        for outside in self.forwards.remove_all(lan) {
            // Of clients whose other flows have another address.
            self.close_mapping(outside, now);
        }
        self.held_syns.remove_all(lan);
        self.ports.remove_all(lan);
        self.remove_moved_ports(self.lan.address(lan));
        self.lan.remove(lan);
    }
}
