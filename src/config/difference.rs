//! Compares two configurations: the one that an endpoint runs with, and a new one.
//!
//! Peers are identified by their public keys. It applies nothing.

use super::{Config, Forward, Peer};
use crate::keys::PublicKey;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

/// One difference of the new configuration.
#[derive(Debug, Clone)]
pub enum Change {
    /// A peer was removed.
    PeerRemoved(Peer),
    /// These keys of a peer were changed.
    PeerChanged(Peer, Vec<&'static str>),
    /// A peer was added.
    PeerAdded(Peer),
    /// The time of a peer is over.
    PeerExpired(Peer),
    /// The further LAN addresses that clients share are others.
    LanPool(Vec<Ipv4Addr>),
    /// A forward was removed.
    ForwardRemoved(Forward),
    /// A forward was added.
    ForwardAdded(Forward),
    /// A key of another section was changed, which a running endpoint can apply: see
    /// [`Config::take_over`].
    Key(KeyChange),
    /// A key of another section was changed, which takes effect when the endpoint starts.
    AtNextStart(KeyChange),
}

/// A change of a key outside of peers and forwards.
#[derive(Debug, Clone)]
pub struct KeyChange {
    /// The key with its section.
    pub name: &'static str,
    /// The values before and after the change, for people to read.
    pub values: Option<(String, String)>,
}

/// Returns the changes from `old` to `new`, in an order in which they can be applied one by one:
/// removals before additions.
pub fn difference(old: &Config, new: &Config) -> Vec<Change> {
    let forwards = |config: &Config| config.forwards.iter().copied().collect::<HashSet<_>>();
    let (forwards_before, forwards_after) = (forwards(old), forwards(new));
    let (before, after) = (by_key(old), by_key(new));
    let gone = |peer: &&Peer| !after.contains_key(&peer.public_key);
    let come = |peer: &&Peer| !before.contains_key(&peer.public_key);
    let changed = |peer: &Peer| Change::of_peer(before.get(&peer.public_key)?, peer);

    let mut changes = Vec::new();
    let removed = old.peers.iter().filter(gone).cloned();
    changes.extend(removed.map(Change::PeerRemoved));
    changes.extend(new.peers.iter().filter_map(changed));
    let added = new.peers.iter().filter(come).cloned();
    changes.extend(added.map(Change::PeerAdded));
    // The first address changes at the next start, and with it the others.
    let pool = |config: &Config| config.lan.pool.iter().copied().collect::<BTreeSet<_>>();
    if old.lan.address == new.lan.address && pool(old) != pool(new) {
        changes.push(Change::LanPool(new.lan.pool.clone()));
    }
    let removed = old.forwards.iter().filter(|f| !forwards_after.contains(f));
    changes.extend(removed.copied().map(Change::ForwardRemoved));
    let added = new.forwards.iter().filter(|f| !forwards_before.contains(f));
    changes.extend(added.copied().map(Change::ForwardAdded));
    let differs = |key: &&Key| (key.differs)(old, new);
    let live = LIVE.iter().filter(differs);
    changes.extend(live.map(|key| Change::Key(key.change(old, new))));
    let fixed = AT_START.iter().filter(differs);
    changes.extend(fixed.map(|key| Change::AtNextStart(key.change(old, new))));
    changes
}

impl Config {
    /// Takes over all keys outside of peers and forwards that a running endpoint can change.
    pub fn take_over(&mut self, new: &Config) {
        LIVE.iter().for_each(|key| (key.take)(self, new));
    }
}

impl Change {
    /// Returns the peer that is changed, as it is after the change.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Self::PeerRemoved(peer)
            | Self::PeerChanged(peer, _)
            | Self::PeerAdded(peer)
            | Self::PeerExpired(peer) => Some(peer),
            Self::ForwardRemoved(_)
            | Self::ForwardAdded(_)
            | Self::Key(_)
            | Self::AtNextStart(_)
            | Self::LanPool(_) => None,
        }
    }

    /// Returns the change of a peer that keeps its public key; `None` if nothing differs.
    pub fn of_peer(old: &Peer, new: &Peer) -> Option<Self> {
        let keys = changed_keys(old, new);
        (!keys.is_empty()).then(|| Self::PeerChanged(new.clone(), keys))
    }
}

fn by_key(config: &Config) -> HashMap<PublicKey, &Peer> {
    let peers = config.peers.iter();
    peers.map(|peer| (peer.public_key, peer)).collect()
}

/// Returns the keys in which the sections of a peer differ.
pub(super) fn changed_keys(old: &Peer, new: &Peer) -> Vec<&'static str> {
    let nets = |peer: &Peer| peer.allowed_ips.iter().copied().collect::<BTreeSet<_>>();
    let (old_life, new_life) = (&old.lifecycle, &new.lifecycle);
    [
        ("name", old.name != new.name),
        ("preshared_key_file", old.preshared_key != new.preshared_key),
        ("allowed_ips", nets(old) != nets(new)),
        (
            "persistent_keepalive",
            old.persistent_keepalive != new.persistent_keepalive,
        ),
        ("reach", old.reach != new.reach),
        ("rate_up", old.rates.up != new.rates.up),
        ("rate_down", old.rates.down != new.rates.down),
        ("lan_address", old.lan_address != new.lan_address),
        ("disabled", old_life.disabled != new_life.disabled),
        ("expires", old_life.expires != new_life.expires),
        ("note", old_life.note != new_life.note),
        ("groups", old_life.groups != new_life.groups),
        ("dns", old.dns != new.dns),
        ("client", old.client != new.client),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key)
    .collect()
}

/// A key outside of peers and forwards.
struct Key {
    name: &'static str,
    differs: fn(&Config, &Config) -> bool,
    take: fn(&mut Config, &Config),
    /// The values as text, without secrets.
    show: fn(&Config) -> String,
}

impl Key {
    fn change(&self, old: &Config, new: &Config) -> KeyChange {
        // Hashes of passwords are not shown.
        let is_secret = self.name == "[admin]";
        KeyChange {
            name: self.name,
            values: (!is_secret).then(|| ((self.show)(old), (self.show)(new))),
        }
    }
}

macro_rules! keys {
    ($($name:literal: $($($field:ident).+)&+),+ $(,)?) => {
        &[$(Key {
            name: $name,
            differs: |old, new| $(old.$($field).+ != new.$($field).+)||+,
            take: |old, new| {
                $(old.$($field).+ = new.$($field).+.clone();)+
            },
            show: |config| [$(format!("{:?}", config.$($field).+)),+].join(", "),
        }),+]
    };
}

/// Keys that a running endpoint can change, since no existing state depends on them.
const LIVE: &[Key] = keys![
    "interface.client_to_client": interface.client_to_client,
    "interface.on_deny": interface.on_deny,
    "interface.services": interface.services,
    "lan.networks": lan.networks & lan.netmap,
    "dns.search": dns.search,
    "dns.servers": dns.servers,
    "dns.netbios": dns.netbios,
    "dns.wins": dns.wins,
    "dns.records": dns.records,
    "nat.filtering": nat.filtering,
    "nat.on_unsolicited": nat.on_unsolicited,
    "nat.udp_inbound_refresh": nat.udp_inbound_refresh,
    "nat.no_nat": nat.no_nat,
    "nat.timeouts.udp": nat.timeouts.udp,
    "nat.timeouts.tcp_established": nat.timeouts.tcp_established,
    "nat.timeouts.tcp_transitory": nat.timeouts.tcp_transitory,
    "nat.timeouts.icmp": nat.timeouts.icmp,
    "nat.limits.ports": nat.limits.ports,
    "nat.limits.sessions": nat.limits.sessions,
    "nat.limits.new_flows_per_second": nat.limits.new_flows_per_second,
    "nat.limits.fragments": nat.limits.fragments,
];

/// Keys that take effect at the start. `interface.endpoint` is in neither list, since only client
/// configurations use it.
const AT_START: &[Key] = keys![
    "interface.name": interface.name,
    "interface.private_key_file": interface.private_key,
    "interface.listen_port": interface.listen_port,
    "interface.address": interface.address,
    "interface.mtu": interface.mtu,
    "interface.shards": interface.shards,
    "lan.interface": lan.interface,
    "lan.address": lan.address,
    "lan.address6": lan.address6,
    "smb.hook": smb.mode,
    "smb.ports": smb.ports,
    "smb.stale": smb.stale,
    "smb.unreadable": smb.unreadable,
    "dns.enabled": dns.enabled,
    "nat.log_file": nat.log,
    "[admin]": admin,
    "metrics.listen": metrics,
    "audit.log_file": audit,
    "offload.tun": offload.tun,
    "offload.gso": offload.gso,
    "offload.gro": offload.gro,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::keys::{KeyFile, PresharedKey, PrivateKey};
    use std::path::Path;

    const INTERFACE: &str = "[interface]\nprivate_key_file = \"server.key\"\n";
    const KEYS: [&str; 3] = [
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    ];

    fn peer(name: &str, key: usize, more: &str) -> String {
        let key = KEYS[key];
        format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n{more}\n")
    }

    fn config(dir: &Path, text: &str) -> Config {
        let text = match text.contains("[interface]") {
            true => text.to_owned(),
            false => format!("{INTERFACE}{text}"),
        };
        parse(&text, &dir.join("vcgate.toml")).unwrap().config
    }

    /// Returns the changes between two files as short texts.
    fn changes(old: &str, new: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::from([1; 32]);
        key.write_new(&dir.path().join("server.key")).unwrap();
        for (name, byte) in [("a.psk", 1), ("b.psk", 2)] {
            let key = PresharedKey::from([byte; 32]);
            key.write_new(&dir.path().join(name)).unwrap();
        }
        let changes = difference(&config(dir.path(), old), &config(dir.path(), new));
        changes.iter().map(words).collect()
    }

    fn words(change: &Change) -> String {
        match change {
            Change::PeerRemoved(peer) => format!("- {}", peer.name),
            Change::PeerAdded(peer) => format!("+ {}", peer.name),
            Change::PeerExpired(peer) => format!("x {}", peer.name),
            Change::PeerChanged(peer, keys) => format!("{}: {}", peer.name, keys.join(" ")),
            Change::ForwardRemoved(forward) => format!("- {}", forward.port()),
            Change::ForwardAdded(forward) => format!("+ {}", forward.port()),
            Change::LanPool(pool) => format!("pool {pool:?}"),
            Change::Key(key) => format!("live {}", key.name),
            Change::AtNextStart(key) => format!("start {}", key.name),
        }
    }

    #[test]
    fn order_and_notation_are_not_changes() {
        let anna = peer(
            "anna",
            0,
            "allowed_ips = [\"10.8.0.2/32\", \"10.8.0.3/32\"]",
        );
        let same = peer("anna", 0, "allowed_ips = [\"10.8.0.3\", \"10.8.0.2/32\"]");
        let ben = peer("ben", 1, "allowed_ips = [\"10.8.0.4/32\"]");
        assert!(changes(&format!("{anna}{ben}"), &format!("# new\n{ben}{same}")).is_empty());
        let named = format!("{INTERFACE}endpoint = \"vpn.example.com\"\n");
        assert!(changes(INTERFACE, &named).is_empty(), "only clients use it");
    }

    #[test]
    fn peers_are_identified_by_their_keys() {
        let ip = "allowed_ips = [\"10.8.0.2/32\"]";
        let other_ip = "allowed_ips = [\"10.8.0.3/32\"]";
        let (anna, ben) = (peer("anna", 0, ip), peer("ben", 1, other_ip));
        assert_eq!(changes(&anna, &format!("{ben}{anna}")), ["+ ben"]);
        assert_eq!(changes(&format!("{ben}{anna}"), &anna), ["- ben"]);
        assert_eq!(changes(&anna, &peer("ann", 0, ip)), ["ann: name"]);
        let new_key = peer("anna", 2, ip);
        assert_eq!(changes(&anna, &new_key), ["- anna", "+ anna"]);
    }

    #[test]
    fn each_key_of_a_peer_is_compared() {
        let ip = "allowed_ips = [\"10.8.0.2/32\"]";
        let with = |more: &str| peer("anna", 0, &format!("{ip}\n{more}"));
        for (old, new, key) in [
            ("", "persistent_keepalive = 25", "persistent_keepalive"),
            ("", "reach = []", "reach"),
            ("reach = [\"icmp\"]", "reach = [\"tcp\"]", "reach"),
            ("", "preshared_key_file = \"a.psk\"", "preshared_key_file"),
            (
                "preshared_key_file = \"a.psk\"",
                "preshared_key_file = \"b.psk\"",
                "preshared_key_file",
            ),
            ("", "disabled = true", "disabled"),
            ("", "rate_up = \"1Mbit\"", "rate_up"),
            (
                "rate_down = \"1Mbit\"",
                "rate_down = \"2Mbit\"",
                "rate_down",
            ),
            ("", "expires = 2027-01-31T18:00:00Z", "expires"),
            ("note = \"a\"", "note = \"b\"", "note"),
            ("", "lan_address = \"192.168.77.50\"", "lan_address"),
        ] {
            assert_eq!(changes(&with(old), &with(new)), [format!("anna: {key}")]);
        }
        let moved = peer("anna", 0, "allowed_ips = [\"10.8.0.9/32\"]\nreach = []");
        assert_eq!(changes(&with(""), &moved), ["anna: allowed_ips reach"]);
    }

    #[test]
    fn a_map_of_networks_changes_at_once() {
        let text = |networks: &str| format!("[lan]\nnetworks = [\"192.168.1.0/24{networks}\"]\n");
        let (plain, mapped) = (text(""), text(" as 10.77.1.0/24"));
        assert_eq!(changes(&plain, &mapped), ["live lan.networks"]);
        assert_eq!(
            changes(&mapped, &text(" as 10.77.2.0/24")),
            ["live lan.networks"]
        );
        assert_eq!(changes(&mapped, &mapped), [] as [&str; 0]);
    }

    #[test]
    fn a_pool_changes_at_once_and_the_first_address_at_the_next_start() {
        let lan =
            |list: &str| format!("[lan]\naddress = [{list}]\nnetworks = [\"192.168.77.0/24\"]\n");
        let two = lan("\"192.168.77.2\", \"192.168.77.3\"");
        let three = lan("\"192.168.77.2\", \"192.168.77.4\", \"192.168.77.3\"");
        assert_eq!(changes(&two, &three), ["pool [192.168.77.4, 192.168.77.3]"]);
        let one = lan("\"192.168.77.2\"");
        assert_eq!(changes(&two, &one), ["pool []"]);
        let order = lan("\"192.168.77.2-192.168.77.4\"");
        assert_eq!(changes(&three, &order), [] as [&str; 0]);
        let first = lan("\"192.168.77.3\"");
        assert_eq!(changes(&two, &first), ["start lan.address"]);
    }

    #[test]
    fn removals_come_before_additions() {
        let (anna, ben) = (
            peer("anna", 0, "allowed_ips = [\"10.8.0.2/32\"]"),
            peer("ben", 1, "allowed_ips = [\"10.8.0.3/32\"]"),
        );
        let forward =
            |port, to| format!("[[forward]]\nlan_port = {port}\nto = \"10.8.0.{to}:1\"\n");
        let old = format!("{anna}{}", forward(8443, 2));
        let new = format!("{ben}{}", forward(9443, 3));
        let expected = ["- anna", "+ ben", "- tcp/8443", "+ tcp/9443"];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn other_keys_take_effect_at_once_or_at_the_next_start() {
        let new = format!(
            "{INTERFACE}mtu = 1400\non_deny = \"drop\"\nclient_to_client = true\nname = \"vcg1\"\n\
             [smb]\nhook = \"off\"\n[lan]\nnetworks = [\"192.168.77.0/24\"]\n\
             [nat]\nfiltering = \"endpoint-independent\"\nudp_inbound_refresh = true\n[nat.timeouts]\nudp = \"3m\"\n\
             [nat.limits]\nports = 64\n"
        );
        let expected = [
            "live interface.client_to_client",
            "live interface.on_deny",
            "live lan.networks",
            "live nat.filtering",
            "live nat.udp_inbound_refresh",
            "live nat.timeouts.udp",
            "live nat.limits.ports",
            "start interface.name",
            "start interface.mtu",
            "start smb.hook",
        ];
        assert_eq!(changes("", &new), expected);
    }

    #[test]
    fn values_taken_over_no_longer_differ() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::from([1; 32]);
        key.write_new(&dir.path().join("server.key")).unwrap();
        let mut old = config(dir.path(), "");
        let text = "[lan]\naddress = \"192.168.1.2\"\nnetworks = [\"192.168.1.0/24\"]\n\
                    [nat.limits]\nsessions = 7\n";
        let new = config(dir.path(), text);
        old.take_over(&new);
        let left: Vec<_> = difference(&old, &new).iter().map(words).collect();
        assert_eq!(left, ["start lan.address"]);
    }
}
