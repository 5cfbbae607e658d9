//! `vcgate status`: the endpoint at a glance.

use super::human::{ago, bytes, counted, duration, or_dash, unix_now};
use super::output;
use super::table::{Align, Table};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vcgate::control::client::Client;
use vcgate::control::report::{HookMode, Lan, LanMode, PeerStatus, SmbCounters, Status};

/// Prints the status of the endpoint.
pub fn run(endpoint: &Client, json: bool) -> anyhow::Result<()> {
    let status = endpoint.status()?;
    output::report(&status, json, |status| render(status, unix_now()))
}

fn render(status: &Status, now: u64) -> String {
    let address: Vec<_> = status.address.iter().map(ToString::to_string).collect();
    let offloads = match status.offloads.as_slice() {
        [] => "none".to_owned(),
        offloads => offloads.join(", "),
    };
    [
        format!(
            "{}: vcgate {}, up {}\n",
            status.interface,
            status.version,
            duration(status.uptime_seconds)
        ),
        format!("  public key  {}\n", status.public_key),
        format!("  listening   UDP port {}\n", status.listen_port),
        format!("  tunnel      {}\n", address.join(", ")),
        format!("  LAN         {}\n", lan(&status.lan)),
        format!("  data plane  {}\n", counted(status.shards as u64, "shard")),
        format!("  offloads    {offloads}\n\n"),
        peers(&status.peers, now),
        drops(&status.drops),
        format!("\nSMB: {}\n", smb(&status.smb)),
    ]
    .concat()
}

fn lan(lan: &Lan) -> String {
    match lan.mode {
        LanMode::Fixed => {
            let also = lan.address6.map(|address| format!(" and {address}"));
            let also = also.unwrap_or_default();
            format!(
                "clients appear as {}{also} on {}",
                lan.address, lan.interface
            )
        }
        LanMode::Auto => format!("clients appear as this host on {}", lan.interface),
    }
}

fn peers(peers: &[PeerStatus], now: u64) -> String {
    if peers.is_empty() {
        return "No peers: add one with `vcgate peer add NAME`\n".to_owned();
    }
    let mut table = Table::new([
        ("PEER", Align::Left),
        ("ENDPOINT", Align::Left),
        ("HANDSHAKE", Align::Left),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
        ("FLOWS", Align::Right),
        ("DENIED", Align::Right),
        ("LIMITED", Align::Right),
    ]);
    let mut peers: Vec<_> = peers.iter().collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    for peer in peers {
        let handshake = peer.last_handshake;
        table.row([
            peer.name.clone(),
            or_dash(peer.endpoint),
            handshake.map_or_else(|| "never".to_owned(), |then| ago(then.0, now)),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
            peer.flows.to_string(),
            peer.denied_packets.to_string(),
            peer.limited_packets.to_string(),
        ]);
    }
    table.to_string()
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    let mut drops: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
    if drops.is_empty() {
        return String::new();
    }
    drops.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
    let mut table = Table::new([("DROPPED", Align::Left), ("PACKETS", Align::Right)]);
    for (reason, count) in drops {
        table.row([reason.replace('_', " "), count.to_string()]);
    }
    format!("\n{table}")
}

/// One line about the hook; `vcgate smb` has the rest.
pub(super) fn smb(counters: &SmbCounters) -> String {
    let mut text = format!("hook {}", counters.hook.name());
    if counters.hook == HookMode::Off {
        return text;
    }
    let bypassed: u64 = counters.bypassed.values().sum();
    let _ = write!(
        text,
        ", {}, {} with VcNumber 0, {} rewritten, {} in bypass",
        counted(counters.session_setups, "logon message"),
        counters.zero_seen,
        counters.rewritten,
        counted(bypassed, "flow"),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate::control::time::Timestamp;
    use vcgate::keys::PublicKey;

    fn peer(name: &str) -> PeerStatus {
        PeerStatus {
            name: name.into(),
            public_key: PublicKey::from([2; 32]),
            endpoint: None,
            allowed_ips: vec![],
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            persistent_keepalive_seconds: None,
            queued_packets: 0,
            flows: 0,
            denied_packets: 0,
            limited_packets: 0,
        }
    }

    fn status() -> Status {
        Status {
            version: "0.1.0".into(),
            interface: "vcg0".into(),
            file: None,
            public_key: PublicKey::from([1; 32]),
            listen_port: 51820,
            address: vec!["10.8.0.1/24".parse().unwrap()],
            lan: Lan {
                interface: "eth0".into(),
                address: "192.168.77.2".parse().unwrap(),
                address6: None,
                mode: LanMode::Fixed,
            },
            uptime_seconds: 7_380,
            shards: 2,
            offloads: vec!["udp_gro".into(), "tun_tso".into()],
            peers: vec![
                peer("berta"),
                PeerStatus {
                    endpoint: Some("203.0.113.7:51820".parse().unwrap()),
                    last_handshake: Some(Timestamp(1_000)),
                    rx_bytes: 1_288_490_189,
                    tx_bytes: 2_048,
                    flows: 14,
                    denied_packets: 3,
                    limited_packets: 120,
                    ..peer("anna")
                },
            ],
            drops: [
                ("filtered".into(), 2),
                ("no_mapping".into(), 12),
                ("rate".into(), 0),
            ]
            .into(),
            smb: SmbCounters {
                hook: HookMode::Assign,
                session_setups: 40,
                zero_seen: 31,
                rewritten: 31,
                bypassed: [("smb2".into(), 1)].into(),
                ..SmbCounters::default()
            },
        }
    }

    #[test]
    fn an_endpoint_at_work() {
        assert_eq!(
            render(&status(), 1_012),
            "\
vcg0: vcgate 0.1.0, up 2 hours 3 minutes
  public key  AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
  listening   UDP port 51820
  tunnel      10.8.0.1/24
  LAN         clients appear as 192.168.77.2 on eth0
  data plane  2 shards
  offloads    udp_gro, tun_tso

PEER   ENDPOINT           HANDSHAKE       RECEIVED     SENT  FLOWS  DENIED  LIMITED
anna   203.0.113.7:51820  12 seconds ago   1.2 GiB  2.0 KiB     14       3      120
berta  -                  never                0 B      0 B      0       0        0

DROPPED     PACKETS
no mapping       12
filtered          2

SMB: hook assign, 40 logon messages, 31 with VcNumber 0, 31 rewritten, 1 flow in bypass
"
        );
    }

    #[test]
    fn an_endpoint_without_anything() {
        let empty = Status {
            lan: Lan {
                mode: LanMode::Auto,
                ..status().lan
            },
            uptime_seconds: 0,
            shards: 1,
            offloads: vec![],
            peers: vec![],
            drops: BTreeMap::new(),
            smb: SmbCounters::default(),
            ..status()
        };
        assert_eq!(
            render(&empty, 0),
            "\
vcg0: vcgate 0.1.0, up 0 seconds
  public key  AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
  listening   UDP port 51820
  tunnel      10.8.0.1/24
  LAN         clients appear as this host on eth0
  data plane  1 shard
  offloads    none

No peers: add one with `vcgate peer add NAME`

SMB: hook off
"
        );
    }
}
