//! Peers by public key: `wg` knows keys only, so names and rules come from the configuration.

use super::active_config::ActiveConfig;
use crate::keys::PublicKey;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use vcgate_core::engine::{Rates, Rule};

/// The settings of a peer that the engine needs besides its keys and addresses.
#[derive(Debug, Clone)]
pub(super) struct PeerEntry {
    pub name: String,
    pub rules: Vec<Rule>,
    pub rates: Rates,
    /// The LAN address that only this peer uses.
    pub lan_address: Option<Ipv4Addr>,
}

/// The names, rules and rates of peers that a change may add.
#[derive(Debug, Clone)]
pub(super) struct PeerDirectory {
    /// The peers that the configuration or a command has named.
    named: HashMap<PublicKey, PeerEntry>,
    /// The rules of all other peers.
    others: Vec<Rule>,
}

impl PeerDirectory {
    /// Returns the directory of the peers with these keys.
    pub(super) fn new<'a>(
        active: &ActiveConfig,
        keys: impl Iterator<Item = &'a PublicKey>,
    ) -> Self {
        let named = active.config.peers.iter();
        let named: HashMap<_, _> = named.map(|peer| (peer.public_key, peer)).collect();
        let entry = |key: &PublicKey| {
            let peer = named.get(key)?;
            let rules = active.rules(peer.reach.as_deref());
            let entry = PeerEntry {
                name: peer.name.clone(),
                rules,
                rates: peer.rates,
                lan_address: peer.lan_address,
            };
            Some((*key, entry))
        };
        Self {
            named: keys.filter_map(entry).collect(),
            others: active.rules(None),
        }
    }

    /// Returns the entry of a peer. An unknown peer is named by the beginning of its
    /// key.
    pub(super) fn of(&self, key: &PublicKey) -> PeerEntry {
        let unknown = || PeerEntry {
            name: key.to_string().chars().take(8).collect(),
            rules: self.others.clone(),
            rates: Rates::default(),
            lan_address: None,
        };
        self.named.get(key).cloned().unwrap_or_else(unknown)
    }
}
