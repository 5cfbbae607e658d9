//! What clients do not reach, though they may: said at the start and after each change.

use super::active_config::ActiveConfig;
use crate::config::Peer;
use ipnet::IpNet;

impl ActiveConfig {
    /// Says so if clients reach nothing.
    pub(super) fn warn_without_networks(&self) {
        if self.networks().is_empty() {
            tracing::warn!(
                "clients reach nothing: the LAN interface has no address; give it one, or set \
                 networks under [lan]"
            );
        }
    }

    /// Says which networks of the LAN are a peer's. With `lan.networks` the configuration was
    /// checked for it, but `wg` was not; without, nobody could know before.
    pub(super) fn warn_of_taken<'a>(&self, peers: impl Iterator<Item = (&'a str, &'a [IpNet])>) {
        for (peer, prefix, network) in taken(self.networks(), peers) {
            tracing::warn!(
                "peer {peer:?}: allowed_ips: {prefix} covers {network} of the LAN, which no client \
                 reaches now; write only what is behind this peer"
            );
        }
    }
}

/// A peer and its prefixes.
pub(super) fn prefixes(peer: &Peer) -> (&str, &[IpNet]) {
    (&peer.name, &peer.allowed_ips)
}

/// Which peer's prefix holds all of which network: what is a peer's is no longer the LAN's.
fn taken<'a>(
    networks: &[IpNet],
    peers: impl Iterator<Item = (&'a str, &'a [IpNet])>,
) -> Vec<(&'a str, IpNet, IpNet)> {
    let prefixes = peers.flat_map(|(peer, nets)| nets.iter().map(move |net| (peer, *net)));
    let taken = prefixes.flat_map(|(peer, prefix)| {
        let inside = networks.iter().filter(move |n| prefix.contains(*n));
        inside.map(move |network| (peer, prefix, *network))
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_around_the_lan_takes_it() {
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
        let said: Vec<_> = taken(&lan, peers)
            .iter()
            .map(|(peer, prefix, network)| format!("{peer} {prefix} {network}"))
            .collect();
        let expected = [
            "site 192.168.0.0/16 192.168.77.0/24",
            "all 0.0.0.0/0 192.168.77.0/24",
            "all ::/0 fd00:77::/64",
            "same 192.168.77.0/24 192.168.77.0/24",
        ];
        assert_eq!(said, expected);
    }
}
