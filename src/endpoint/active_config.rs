//! What is in force while the endpoint runs: the configuration as it was changed meanwhile, and what
//! of the host goes with it. It makes no change.

use crate::config::{Change, Config};
use crate::host::{Egress, Routes};
use ipnet::IpNet;
use std::net::IpAddr;

/// What is in force, from which the next change starts.
pub(super) struct ActiveConfig {
    /// Its peers are those that the file and commands have named, also while `wg` has taken one
    /// away: when it comes back, it has its name and its rules.
    pub config: Config,
    pub routes: Routes,
    pub egress: Egress,
    /// The networks of the LAN's interface.
    pub on_lan: Vec<IpNet>,
    /// Addresses of several hosts that the host delivers to its own sockets.
    pub broadcasts: Vec<IpAddr>,
}

impl ActiveConfig {
    /// What a client without rules of its own may reach.
    pub(super) fn networks(&self) -> &[IpNet] {
        match self.config.lan.networks.is_empty() {
            false => &self.config.lan.networks,
            true => &self.on_lan,
        }
    }

    /// A change was made.
    pub(super) fn note(&mut self, change: &Change) {
        let Config {
            peers, forwards, ..
        } = &mut self.config;
        match change {
            Change::PeerRemoved(peer) => peers.retain(|p| p.public_key != peer.public_key),
            Change::PeerChanged(peer, _) | Change::PeerAdded(peer) => {
                peers.retain(|p| p.public_key != peer.public_key);
                peers.push(peer.clone());
            }
            Change::ForwardRemoved(forward) => forwards.retain(|f| f != forward),
            Change::ForwardAdded(forward) => forwards.push(*forward),
            Change::Key(_) | Change::AtNextStart(_) => {}
        }
    }
}
