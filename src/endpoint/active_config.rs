//! The configuration in force: the loaded one with the changes made since, and the state of the
//! host that belongs to it. It changes nothing itself.

use super::peer_directory::rules;
use crate::config::{Change, Config, Peer, reach};
use crate::host::{Egress, Routes};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::SystemTime;
use vcgate_core::engine::Rule;

/// The configuration in force, to which the next change is applied.
pub(super) struct ActiveConfig {
    /// Its peers are those named by the file and by commands, including one that `wg` has removed:
    /// when `wg` adds it again, it gets its name and rules back.
    pub config: Config,
    pub routes: Routes,
    pub egress: Egress,
    /// The networks of the LAN's interface.
    pub on_lan: Vec<IpNet>,
    /// Broadcast addresses, whose packets the host also delivers to its own sockets.
    pub broadcasts: Vec<IpAddr>,
}

impl ActiveConfig {
    /// Returns the networks that a client without its own rules may reach.
    pub(super) fn networks(&self) -> &[IpNet] {
        match self.config.lan.networks.is_empty() {
            false => &self.config.lan.networks,
            true => &self.on_lan,
        }
    }

    /// Returns the peers that may connect at this time.
    pub(super) fn active_peers(&self, now: SystemTime) -> Vec<&Peer> {
        let peers = self.config.peers.iter();
        peers.filter(|peer| peer.lifecycle.is_active(now)).collect()
    }

    /// Returns the engine's rules of a peer; by default, all networks of the LAN and all clients.
    pub(super) fn rules(&self, reach: Option<&[reach::Rule]>) -> Vec<Rule> {
        rules(self.networks(), reach, &self.config.lan.netmap)
    }

    /// Records a change that was made.
    pub(super) fn note(&mut self, change: &Change) {
        let Config {
            peers, forwards, ..
        } = &mut self.config;
        match change {
            Change::PeerRemoved(peer) => peers.retain(|p| p.public_key != peer.public_key),
            Change::PeerChanged(peer, _) | Change::PeerAdded(peer) | Change::PeerExpired(peer) => {
                peers.retain(|p| p.public_key != peer.public_key);
                peers.push(peer.clone());
            }
            Change::ForwardRemoved(forward) => forwards.retain(|f| f != forward),
            Change::ForwardAdded(forward) => forwards.push(*forward),
            Change::Key(_) | Change::AtNextStart(_) => {}
        }
    }

    /// Warns if clients can reach nothing.
    pub(super) fn warn_without_networks(&self) {
        if self.networks().is_empty() {
            tracing::warn!(
                "clients can reach nothing: the LAN interface has no address; give it one, or set \
                 networks under [lan]"
            );
        }
    }

    /// Warns of networks of the LAN that a peer's prefix covers. A configuration with `lan.networks`
    /// was checked for this, but changes by `wg` and the networks of the interface were not.
    pub(super) fn warn_of_covered_networks<'a>(
        &self,
        peers: impl Iterator<Item = (&'a str, &'a [IpNet])>,
    ) {
        for (peer, prefix, network) in covered(self.networks(), peers) {
            tracing::warn!(
                "peer {peer:?}: allowed_ips: {prefix} covers {network} of the LAN, which no client \
                 can reach; write only the networks of this peer"
            );
        }
    }
}

/// Returns the name and the prefixes of a peer.
pub(super) fn prefixes(peer: &Peer) -> (&str, &[IpNet]) {
    (&peer.name, &peer.allowed_ips)
}

/// Returns each peer with a prefix that covers a network, which clients then reach at that peer
/// and not on the LAN.
fn covered<'a>(
    networks: &[IpNet],
    peers: impl Iterator<Item = (&'a str, &'a [IpNet])>,
) -> Vec<(&'a str, IpNet, IpNet)> {
    let prefixes = peers.flat_map(|(peer, nets)| nets.iter().map(move |net| (peer, *net)));
    let covered = prefixes.flat_map(|(peer, prefix)| {
        let inside = networks.iter().filter(move |n| prefix.contains(*n));
        inside.map(move |network| (peer, prefix, *network))
    });
    covered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_covers_the_lan_is_found() {
        let nets =
            |nets: &[&str]| -> Vec<IpNet> { nets.iter().map(|n| n.parse().unwrap()).collect() };
        let lan = nets(&["192.168.77.0/24", "fd00:77::/64"]);
        let peers = [
            ("client", nets(&["10.8.0.11/32", "fd00:8::11/128"])),
            ("site", nets(&["192.168.77.128/25", "192.168.0.0/16"])),
            ("all", nets(&["0.0.0.0/0", "::/0"])),
            ("same", nets(&["192.168.77.0/24"])),
        ];
        let peers = peers.iter().map(|(name, nets)| (*name, &**nets));
        let warnings: Vec<_> = covered(&lan, peers)
            .iter()
            .map(|(peer, prefix, network)| format!("{peer} {prefix} {network}"))
            .collect();
        let expected = [
            "site 192.168.0.0/16 192.168.77.0/24",
            "all 0.0.0.0/0 192.168.77.0/24",
            "all ::/0 fd00:77::/64",
            "same 192.168.77.0/24 192.168.77.0/24",
        ];
        assert_eq!(warnings, expected);
    }
}
