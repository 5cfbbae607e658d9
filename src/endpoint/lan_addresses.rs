//! The further LAN addresses of the running endpoint, those of the pool and those of single peers:
//! their changes, and their report.
//!
//! New addresses are probed for before anything is changed, and what needs one that is taken is
//! refused. An address that changes its use leaves all shards before one of them uses it again. The
//! host answers for an address until no shard has it.

use super::active_config::ActiveConfig;
use super::shards::refusal;
use super::state::EndpointHandle;
use crate::config::{Change, FurtherAddress, Peer};
use crate::control::endpoint::Refusal;
use crate::control::report::{Conflict, LanAddress};
use crate::host::HostError;
use crate::keys::PublicKey;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use vcgate_core::nat::LanAddressUsage;

/// The reasons why addresses cannot be used.
pub(super) type Unavailable = HashMap<Ipv4Addr, HostError>;

impl EndpointHandle {
    /// Returns the report of all LAN addresses, from their usage in all shards.
    pub(super) fn lan_addresses(
        &self,
        usage: &[LanAddressUsage],
        conflicts: &[Conflict],
    ) -> Vec<LanAddress> {
        let info = &self.info;
        let six = info.external_address6.map(IpAddr::V6);
        let first = [info.external_address.into()].into_iter().chain(six);
        let first = first.map(|address| (address, None));
        let further = self.further.list().into_iter();
        let further = further.map(|f| (IpAddr::V4(f.address), f.peer));
        let external = info.addresses();
        let report = |(address, peer)| {
            let here = usage
                .iter()
                .filter(|u| external.external(u.address) == address);
            let (clients, ports) = here.fold((0, 0), |(clients, ports), u| {
                (clients + u64::from(u.clients), ports + u64::from(u.ports))
            });
            LanAddress {
                address,
                peer,
                clients,
                ports,
                conflict: conflicts.iter().any(|c| c.address == address),
            }
        };
        first.chain(further).map(report).collect()
    }

    /// Connects the addresses that changes add to those of `active`. Returns those that cannot be used.
    pub(super) async fn connect_addresses(
        &self,
        active: &ActiveConfig,
        changes: &[Change],
    ) -> Unavailable {
        let held = self.further.list();
        let is_held = |address| held.iter().any(|held| held.address == address);
        let added = changes.iter().flat_map(|change| added_by(active, change));
        let added: Vec<_> = added.filter(|f| !is_held(f.address)).collect();
        if added.is_empty() {
            return Unavailable::new();
        }
        if !self.info.announces {
            let fault = |f: FurtherAddress| (f.address, HostError::OnlyAtStart);
            return added.into_iter().map(fault).collect();
        }
        self.further.add(&added, &[]).await.into_iter().collect()
    }

    /// Takes addresses that changes remove or move from all shards.
    pub(super) async fn release_addresses(&self, active: &ActiveConfig, changes: &[Change]) {
        let old_pool = &active.config.lan.pool;
        let mut pool = None;
        let mut peers: Vec<PublicKey> = Vec::new();
        for change in changes {
            match change {
                Change::LanPool(new) => {
                    let stays = old_pool.iter().filter(|address| new.contains(address));
                    pool = Some(stays.copied().collect::<Vec<_>>());
                }
                Change::PeerRemoved(peer) if own_address(active, peer).is_some() => {
                    peers.push(peer.public_key);
                }
                Change::PeerChanged(peer, _) | Change::PeerAdded(peer) => {
                    let own = own_address(active, peer);
                    if own.is_some() && own != peer.lan_address {
                        peers.push(peer.public_key);
                    }
                }
                _ => {}
            }
        }
        if pool.is_none() && peers.is_empty() {
            return;
        }
        self.shards
            .ask_all(move |engine, now| {
                for key in peers {
                    if let Some(id) = engine.tunnel().find(&key.into()) {
                        // Nothing can refuse a removal.
                        let _ = engine.set_lan_address(id, None, now);
                    }
                }
                if let Some(pool) = pool {
                    let _ = engine.set_lan_pool(&pool, now);
                }
            })
            .await;
    }

    /// Sets the addresses that clients share, besides the first one, in all shards.
    pub(super) async fn set_pool(&self, pool: &[Ipv4Addr]) -> Result<(), Refusal> {
        let pool = pool.to_vec();
        let set = self
            .shards
            .ask_all(move |engine, now| engine.set_lan_pool(&pool, now));
        let mut answers = set.await.into_iter();
        // All shards answer alike.
        let answer = answers.next();
        answer.map_or_else(
            || Err(refusal("the endpoint is stopping")),
            |set| set.map_err(refusal),
        )
    }

    /// Makes the host's addresses those of the configuration in force: disconnects all others.
    pub(super) async fn update_addresses(&self, active: &mut ActiveConfig) {
        let wanted = active.config.further_addresses();
        self.further.set_owners(&wanted);
        let held = self.further.list();
        let is_wanted = |address| wanted.iter().any(|wanted| wanted.address == address);
        for FurtherAddress { address, .. } in held.iter().filter(|f| !is_wanted(f.address)) {
            if let Err(error) = self.further.remove(*address).await {
                tracing::warn!(%address, %error, "cannot disconnect a LAN address that clients do not use");
            }
        }
        let all = self.further.list().into_iter();
        let all = all.map(|f| IpAddr::V4(f.address)).collect();
        if active.egress.set_further(all) {
            let failed = self.update_egress(active).await.into_iter();
            for error in failed.filter_map(Result::err) {
                tracing::warn!(%error, "cannot reach all destinations of clients");
            }
        }
    }
}

/// Returns the reason to refuse a change that needs an address which cannot be used. A forward stays
/// as it is if it was to move to such an address.
pub(super) fn refused(
    active: &ActiveConfig,
    change: &Change,
    all: &[Change],
    unavailable: &Unavailable,
) -> Option<Refusal> {
    let needed: Vec<Ipv4Addr> = match change {
        Change::ForwardAdded(forward) => forward.lan_address.into_iter().collect(),
        Change::ForwardRemoved(old) => {
            let moved = all.iter().filter_map(|other| match other {
                Change::ForwardAdded(new) if (new.port(), new.to) == (old.port(), old.to) => {
                    new.lan_address
                }
                _ => None,
            });
            moved.collect()
        }
        _ => added_by(active, change)
            .into_iter()
            .map(|f| f.address)
            .collect(),
    };
    let error = needed.iter().find_map(|address| unavailable.get(address))?;
    Some(refusal(error))
}

/// Returns the addresses that a change adds to those of `active`.
fn added_by(active: &ActiveConfig, change: &Change) -> Vec<FurtherAddress> {
    match change {
        Change::LanPool(new) => {
            let old = &active.config.lan.pool;
            let added = new.iter().filter(|address| !old.contains(address));
            let shared = |address: &Ipv4Addr| FurtherAddress {
                address: *address,
                peer: None,
            };
            added.map(shared).collect()
        }
        Change::PeerChanged(peer, _) | Change::PeerAdded(peer) => {
            let added = peer.lan_address;
            let added = added.filter(|_| own_address(active, peer) != peer.lan_address);
            let own = |address| FurtherAddress {
                address,
                peer: Some(peer.name.clone()),
            };
            added.map(own).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the address that only this peer uses now.
fn own_address(active: &ActiveConfig, peer: &Peer) -> Option<Ipv4Addr> {
    let mut peers = active.config.peers.iter();
    let known = peers.find(|known| known.public_key == peer.public_key)?;
    known.lan_address
}
