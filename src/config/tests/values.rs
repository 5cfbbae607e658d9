//! The values of valid files.

use super::*;
use vcgate_core::smb::{Mode, Stale, Unreadable};

#[test]
fn an_empty_file_has_the_documented_defaults() {
    let (_dir, loaded) = load_text("");
    let Loaded {
        config, warnings, ..
    } = loaded.unwrap();
    assert_eq!(warnings, []);
    let interface = &config.interface;
    assert_eq!(interface.name, "vcg0");
    assert_eq!(interface.listen_port, 51820);
    assert_eq!(interface.address, ["10.8.0.1/24".parse().unwrap()]);
    assert_eq!(interface.mtu, 1420);
    assert_eq!(interface.endpoint, None);
    assert_eq!(
        interface.private_key.public_key().to_string(),
        SERVER_PUBLIC
    );
    assert_eq!(config.lan.address, LanAddress::Auto);
    assert_eq!(config.smb.mode, Mode::Assign);
    assert_eq!(config.smb.ports, [445, 139]);
    assert_eq!(config.smb.stale, Stale::Probe);
    assert_eq!(config.smb.unreadable, Unreadable::Reset);
    assert_eq!(config.nat.filtering, Filtering::AddressDependent);
    assert_eq!(config.nat.on_unsolicited, OnUnsolicited::Reject);
    assert!(!config.nat.udp_inbound_refresh);
    assert_eq!(config.nat.timeouts, Timeouts::default());
    assert_eq!(config.nat.limits, Limits::default());
    assert_eq!(config.nat.no_nat, []);
    assert_eq!(config.nat.log, None);
    assert!(!config.interface.client_to_client);
    assert_eq!(config.interface.on_deny, OnDeny::Reject);
    assert!(config.forwards.is_empty());
    let all = Offload {
        tun: tun::Offload::TcpAndUdp,
        gso: true,
        gro: true,
    };
    assert_eq!(config.offload, all);
    assert!(config.peers.is_empty());
}

#[test]
fn every_key_is_read() {
    let text = format!(
        r#"
[interface]
name = "wg9"
private_key_file = "keys/server.key"
listen_port = 443
address = ["10.9.0.1/24", "fd00::1/64"]
mtu = 1300
endpoint = "vpn.example.com"
client_to_client = true
on_deny = "drop"
[lan]
interface = "eth7"
address = "192.168.77.2"
address6 = "fd00:77::2"
networks = ["192.168.77.0/24", "192.168.78.9/24", "fd00:77::/64 as fd00:99::/64"]
[smb]
hook = "observe"
ports = [4450]
stale = "keep"
unreadable = "pass"
[nat]
filtering = "endpoint-independent"
on_unsolicited = "drop"
udp_inbound_refresh = true
no_nat = ["192.168.77.70/26"]
log_file = "log/ports.jsonl"
log_megabytes = 2
log_files = 3
[nat.timeouts]
udp = "2m"
tcp_established = "3h"
tcp_transitory = "5m"
icmp = "90s"
[nat.limits]
ports = 100
sessions = 200
new_flows_per_second = 300
fragments = 8
[[forward]]
lan_port = 8443
to = "10.9.0.11:443"
[[forward]]
lan_port = 5060
to = "10.9.0.11:5060"
proto = "udp"
[offload]
tun = "tcp"
gso = false
gro = false
[[peer]]
name = "anna"
public_key = "{ANNA}"
preshared_key_file = "keys/server.key"
allowed_ips = ["10.9.0.11", "fd00::11/128"]
persistent_keepalive = 25
reach = ["192.168.77.10/32:445", "icmp"]
"#
    );
    let (dir, loaded) = load_text(&text);
    let Loaded {
        config, warnings, ..
    } = loaded.unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.interface.name, "wg9");
    assert_eq!(config.interface.mtu, 1300);
    let endpoint = config.interface.endpoint.as_ref().unwrap();
    assert_eq!(endpoint.to_string(), "vpn.example.com:443");
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(
        config.interface.address,
        [net("10.9.0.1/24"), net("fd00::1/64")]
    );
    assert_eq!(config.lan.interface.as_deref(), Some("eth7"));
    assert_eq!(
        config.lan.address,
        LanAddress::Fixed(Ipv4Addr::new(192, 168, 77, 2))
    );
    assert_eq!(
        config.lan.address6,
        Some(LanAddress::Fixed(Ipv6Addr::new(
            0xFD00, 0x77, 0, 0, 0, 0, 0, 2
        )))
    );
    assert_eq!(
        config.lan.networks,
        [
            net("192.168.77.0/24"),
            net("192.168.78.0/24"),
            net("fd00:77::/64")
        ]
    );
    assert_eq!(
        config.lan.known_to_clients(&config.lan.networks),
        [
            net("192.168.77.0/24"),
            net("192.168.78.0/24"),
            net("fd00:99::/64")
        ]
    );
    assert_eq!(
        (config.smb.mode, config.smb.stale, config.smb.unreadable),
        (Mode::Observe, Stale::Keep, Unreadable::Pass)
    );
    assert_eq!(config.smb.ports, [4450]);
    assert_eq!(config.nat.filtering, Filtering::EndpointIndependent);
    assert_eq!(config.nat.on_unsolicited, OnUnsolicited::Drop);
    assert!(config.nat.udp_inbound_refresh);
    let timeouts = &config.nat.timeouts;
    let seconds = [
        timeouts.udp,
        timeouts.tcp_established,
        timeouts.tcp_transitory,
        timeouts.icmp,
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [120, 10800, 300, 90]);
    let limits = Limits {
        ports: 100,
        sessions: 200,
        new_flows_per_second: 300,
        fragments: 8,
    };
    assert_eq!(config.nat.limits, limits);
    assert!(config.interface.client_to_client);
    assert_eq!(config.interface.on_deny, OnDeny::Drop);
    assert_eq!(config.nat.no_nat, [net("192.168.77.64/26")]);
    let log = LogFile {
        file: dir.path().join("log/ports.jsonl"),
        size: 2 << 20,
        keep: 3,
    };
    assert_eq!(config.nat.log, Some(log));
    let forward = |proto, lan_port, to: &str| Forward {
        proto,
        lan_port,
        to: to.parse().unwrap(),
        lan_address: None,
    };
    let forwards = [
        forward(Transport::Tcp, 8443, "10.9.0.11:443"),
        forward(Transport::Udp, 5060, "10.9.0.11:5060"),
    ];
    assert_eq!(config.forwards, forwards);
    let some = Offload {
        tun: tun::Offload::Tcp,
        gso: false,
        gro: false,
    };
    assert_eq!(config.offload, some);
    let anna = config.peer("anna").unwrap();
    assert_eq!(anna.public_key.to_string(), ANNA);
    assert_eq!(anna.allowed_ips, [net("10.9.0.11/32"), net("fd00::11/128")]);
    assert_eq!(anna.persistent_keepalive.map(NonZeroU16::get), Some(25));
    assert_eq!(
        anna.preshared_key.as_ref().unwrap().to_base64().as_str(),
        SERVER
    );
    assert_eq!(
        anna.preshared_key_file,
        Some(dir.path().join("keys/server.key"))
    );
    let reach: Vec<_> = anna
        .reach
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    assert_eq!(reach, ["192.168.77.10/32:445", "icmp"]);
}

#[test]
fn reaching_nothing_differs_from_reaching_all() {
    let text = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11\"]\nreach = []");
    assert_eq!(
        load_text(&text).1.unwrap().config.peers[0].reach,
        Some(Vec::new())
    );
    let text = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11\"]");
    assert_eq!(load_text(&text).1.unwrap().config.peers[0].reach, None);
}
