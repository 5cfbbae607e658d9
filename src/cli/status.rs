//! `vcgate status`: prints a summary of the running endpoint.

use super::human::{ago, bytes, counted, duration, or_dash, unix_now};
use super::output::{self, Screen};
use super::table::{Align, Cell, Table};
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vcgate::config::PeerState;
use vcgate::control::client::Client;
use vcgate::control::report::{
    Conflict, InactivePeer, Lan, LanAddress, LanMode, MappedNetwork, PeerStatus, SmbCounters,
    Status,
};
use vcgate::control::time::Timestamp;
use vcgate_core::smb::Mode;
use vcgate_dns::Counters;

/// The peers to show, and their order.
#[derive(Args)]
pub(super) struct Selection {
    /// Only peers that are connected: with a handshake in the last three minutes
    #[arg(long)]
    connected: bool,
    /// Only this peer
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// The order of the peers; numbers and times begin with the largest
    #[arg(long, value_name = "KEY", default_value = "name")]
    sort: Key,
}

#[derive(Clone, Copy, ValueEnum)]
enum Key {
    Name,
    Endpoint,
    Handshake,
    Received,
    Sent,
    Flows,
    Denied,
    Limited,
}

/// A session ends this long after its handshake (REJECT_AFTER_TIME of the WireGuard paper), in seconds.
const SESSION_LIFETIME: u64 = 180;

/// Prints the status of the endpoint.
pub(super) fn run(endpoint: &Client, selection: &Selection, json: bool) -> anyhow::Result<()> {
    let mut status = endpoint.status()?;
    let now = unix_now();
    select(&mut status.peers, selection, now)?;
    output::report(&status, json, |status| {
        render(status, now, output::screen())
    })
}

/// Keeps the selected peers, and sorts them.
fn select(peers: &mut Vec<PeerStatus>, selection: &Selection, now: u64) -> anyhow::Result<()> {
    if let Some(name) = &selection.peer {
        anyhow::ensure!(
            peers.iter().any(|peer| peer.name == *name),
            "the endpoint has no peer {name:?}; \"vcgate status\" shows all"
        );
        peers.retain(|peer| peer.name == *name);
    }
    if selection.connected {
        let is_recent = |then: Timestamp| now.saturating_sub(then.0) < SESSION_LIFETIME;
        // A handshake of an earlier run is recent, too, but its session is over.
        peers.retain(|peer| peer.connected && peer.last_handshake.is_some_and(is_recent));
    }
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let largest_first = |value: fn(&PeerStatus) -> u64| {
        move |a: &PeerStatus, b: &PeerStatus| value(b).cmp(&value(a))
    };
    match selection.sort {
        Key::Name => {}
        Key::Endpoint => peers.sort_by_key(|peer| (peer.endpoint.is_none(), peer.endpoint)),
        Key::Handshake => {
            peers.sort_by(largest_first(|peer| {
                peer.last_handshake.map_or(0, |then| then.0)
            }));
        }
        Key::Received => peers.sort_by(largest_first(|peer| peer.rx_bytes)),
        Key::Sent => peers.sort_by(largest_first(|peer| peer.tx_bytes)),
        Key::Flows => peers.sort_by(largest_first(|peer| peer.flows as u64)),
        Key::Denied => peers.sort_by(largest_first(|peer| peer.denied_packets)),
        Key::Limited => peers.sort_by(largest_first(|peer| peer.limited_packets)),
    }
    Ok(())
}

fn render(status: &Status, now: u64, screen: Screen) -> String {
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
        mapped(&status.lan),
        conflicts(&status.lan, now),
        status
            .dns
            .map(|counters| dns(counters, screen))
            .unwrap_or_default(),
        format!("  data plane  {}\n", counted(status.shards as u64, "shard")),
        format!("  offloads    {offloads}\n\n"),
        peers(&status.peers, now, screen),
        inactive(&status.inactive, now),
        lan_addresses(&status.lan, screen),
        drops(&status.drops),
        format!("\n{}", smb_line(&status.smb, screen)),
    ]
    .concat()
}

/// Renders the questions of clients, with each outcome that is not 0.
fn dns(counters: Counters, screen: Screen) -> String {
    let Counters {
        queries,
        local,
        cache_hits,
        forwarded,
        netbios,
        refused,
        failed,
        limited,
    } = counters;
    let outcomes = [
        (local, "local"),
        (cache_hits, "cached"),
        (forwarded, "forwarded"),
        (netbios, "NetBIOS"),
        (refused, "refused"),
        (failed, "failed"),
        (limited, "limited"),
    ];
    let mut text = format!("  DNS         {}", counted(queries, "question"));
    for (count, outcome) in outcomes {
        if count > 0 {
            let _ = write!(text, ", {count} {outcome}");
        }
    }
    screen.line(&text, false)
}

fn lan(lan: &Lan) -> String {
    let more = match further(lan).count() {
        0 => String::new(),
        1 => ", or as one further address".to_owned(),
        count => format!(", or as {count} further addresses"),
    };
    match lan.mode {
        LanMode::Fixed => {
            let also = lan.address6.map(|address| format!(" and {address}"));
            let also = also.unwrap_or_default();
            format!(
                "clients appear as {}{also} on {}{more}",
                lan.address, lan.interface
            )
        }
        LanMode::Auto => format!("clients appear as this host on {}{more}", lan.interface),
    }
}

/// Returns the addresses besides the first ones.
fn further(lan: &Lan) -> impl Iterator<Item = &LanAddress> {
    let is_first = |it: &LanAddress| it.address == lan.address || Some(it.address) == lan.address6;
    lan.addresses.iter().filter(move |it| !is_first(it))
}

/// Renders the use of each address, if there are several.
fn lan_addresses(lan: &Lan, screen: Screen) -> String {
    if further(lan).next().is_none() {
        return String::new();
    }
    let mut table = Table::new([
        ("LAN ADDRESS", Align::Left),
        ("PEER", Align::Left),
        ("CLIENTS", Align::Right),
        ("PORTS", Align::Right),
        ("CONFLICT", Align::Left),
    ]);
    for address in &lan.addresses {
        let conflict = if address.conflict { "yes" } else { "no" };
        table.row([
            address.address.to_string().into(),
            address
                .peer
                .clone()
                .unwrap_or_else(|| "shared".into())
                .into(),
            address.clients.to_string().into(),
            address.ports.to_string().into(),
            Cell::marked(conflict.into(), address.conflict),
        ]);
    }
    format!("\n{}", table.on(screen))
}

/// Renders a line for each network that clients know by other addresses.
fn mapped(lan: &Lan) -> String {
    let line = |map: &MappedNetwork| {
        format!(
            "  mapped      clients know {} as {}\n",
            map.network, map.known_as
        )
    };
    lan.mapped.iter().map(line).collect()
}

/// Renders a line for each station that uses our address.
fn conflicts(lan: &Lan, now: u64) -> String {
    let line = |conflict: &Conflict| {
        let last = ago(conflict.last_seen.0, now);
        format!(
            "  conflict    {} is used by {} too, {last}\n",
            conflict.address, conflict.station
        )
    };
    lan.conflicts.iter().map(line).collect()
}

/// Renders the peers that may not connect.
fn inactive(peers: &[InactivePeer], now: u64) -> String {
    let line = |peer: &InactivePeer| {
        let since = match (peer.state, peer.expires) {
            (PeerState::Expired, Some(expires)) => format!(" {}", ago(expires.0, now)),
            _ => String::new(),
        };
        format!("{} is {}{since}\n", peer.name, peer.state.name())
    };
    match peers {
        [] => String::new(),
        peers => format!("\n{}", peers.iter().map(line).collect::<String>()),
    }
}

fn peers(peers: &[PeerStatus], now: u64, screen: Screen) -> String {
    if peers.is_empty() {
        return "No peers to show: `vcgate peer add NAME` adds one\n".to_owned();
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
    for peer in peers {
        let handshake = peer.last_handshake;
        table.row([
            peer.name.clone().into(),
            or_dash(peer.endpoint).into(),
            handshake
                .map_or_else(|| "never".to_owned(), |then| ago(then.0, now))
                .into(),
            bytes(peer.rx_bytes).into(),
            bytes(peer.tx_bytes).into(),
            peer.flows.to_string().into(),
            count(peer.denied_packets),
            count(peer.limited_packets),
        ]);
    }
    table.on(screen)
}

/// Makes a cell for a number that should be 0.
fn count(packets: u64) -> Cell {
    Cell::marked(packets.to_string(), packets > 0)
}

/// Renders the summary of the hook. A mode that protects no client is highlighted.
pub(super) fn smb_line(counters: &SmbCounters, screen: Screen) -> String {
    let line = format!("SMB: {}", smb(counters));
    screen.line(&line, counters.hook != Mode::Assign)
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

/// Renders a summary of the hook; `vcgate smb` shows the details.
fn smb(counters: &SmbCounters) -> String {
    let mut text = format!("hook {}", counters.hook.name());
    if counters.hook == Mode::Off {
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
            connected: false,
            last_failure: None,
            last_seen: None,
        }
    }

    fn address(
        ip: &str,
        peer: Option<&str>,
        clients: u64,
        ports: u64,
        conflict: bool,
    ) -> LanAddress {
        LanAddress {
            address: ip.parse().unwrap(),
            peer: peer.map(str::to_owned),
            clients,
            ports,
            conflict,
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
                mapped: vec![MappedNetwork {
                    network: "192.168.77.0/24".parse().unwrap(),
                    known_as: "10.77.1.0/24".parse().unwrap(),
                }],
                addresses: vec![address("192.168.77.2", None, 2, 192, true)],
                conflicts: vec![Conflict {
                    address: "192.168.77.2".parse().unwrap(),
                    station: "02-00-00-00-00-99".into(),
                    first_seen: Timestamp(900),
                    last_seen: Timestamp(1_000),
                    packets: 7,
                }],
            },
            uptime_seconds: 7_380,
            shards: 2,
            offloads: vec!["udp_gro".into(), "tun_tso".into()],
            peers: vec![
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
                peer("berta"),
            ],
            drops: [
                ("filtered".into(), 2),
                ("no_mapping".into(), 12),
                ("rate".into(), 0),
            ]
            .into(),
            confinement: None,
            inactive: vec![InactivePeer {
                name: "carl".into(),
                public_key: PublicKey::from([3; 32]),
                state: PeerState::Expired,
                expires: Some(Timestamp(952)),
            }],
            failed_handshakes: vec![],
            dns: Some(Counters {
                queries: 120,
                cache_hits: 80,
                forwarded: 37,
                failed: 3,
                ..Counters::default()
            }),
            smb: SmbCounters {
                hook: Mode::Assign,
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
            render(&status(), 1_012, Screen::default()),
            "\
vcg0: vcgate 0.1.0, up 2 hours 3 minutes
  public key  AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
  listening   UDP port 51820
  tunnel      10.8.0.1/24
  LAN         clients appear as 192.168.77.2 on eth0
  mapped      clients know 192.168.77.0/24 as 10.77.1.0/24
  conflict    192.168.77.2 is used by 02-00-00-00-00-99 too, 12 seconds ago
  DNS         120 questions, 80 cached, 37 forwarded, 3 failed
  data plane  2 shards
  offloads    udp_gro, tun_tso

PEER   ENDPOINT           HANDSHAKE       RECEIVED     SENT  FLOWS  DENIED  LIMITED
anna   203.0.113.7:51820  12 seconds ago   1.2 GiB  2.0 KiB     14       3      120
berta  -                  never                0 B      0 B      0       0        0

carl is expired 1 minute ago

DROPPED     PACKETS
no mapping       12
filtered          2

SMB: hook assign, 40 logon messages, 31 with VcNumber 0, 31 rewritten, 1 flow in bypass
"
        );
    }

    #[test]
    fn several_lan_addresses_are_listed() {
        let mut several = status().lan;
        several.addresses.extend([
            address("192.168.77.3", None, 0, 0, false),
            address("192.168.77.50", Some("anna"), 1, 64, false),
        ]);
        assert_eq!(
            lan(&several),
            "clients appear as 192.168.77.2 on eth0, or as 2 further addresses"
        );
        assert_eq!(
            lan_addresses(&several, Screen::default()),
            "
LAN ADDRESS    PEER    CLIENTS  PORTS  CONFLICT
192.168.77.2   shared        2    192  yes
192.168.77.3   shared        0      0  no
192.168.77.50  anna          1     64  no
"
        );
    }

    #[test]
    fn an_endpoint_without_anything() {
        let empty = Status {
            lan: Lan {
                mode: LanMode::Auto,
                mapped: Vec::new(),
                conflicts: Vec::new(),
                ..status().lan
            },
            uptime_seconds: 0,
            shards: 1,
            offloads: vec![],
            peers: vec![],
            inactive: vec![],
            drops: BTreeMap::new(),
            dns: None,
            smb: SmbCounters {
                hook: Mode::Off,
                ..SmbCounters::default()
            },
            ..status()
        };
        assert_eq!(
            render(&empty, 0, Screen::default()),
            "\
vcg0: vcgate 0.1.0, up 0 seconds
  public key  AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
  listening   UDP port 51820
  tunnel      10.8.0.1/24
  LAN         clients appear as this host on eth0
  data plane  1 shard
  offloads    none

No peers to show: `vcgate peer add NAME` adds one

SMB: hook off
"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut wide = status();
        wide.peers[0].endpoint = Some(
            "[2001:db8:1234:5678:9abc:def0:1234:5678]:51820"
                .parse()
                .unwrap(),
        );
        let screen = Screen {
            columns: Some(80),
            colours: false,
        };
        let text = render(&wide, 1_012, screen);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let peer = "\
anna
  ENDPOINT [2001:db8:1234:5678:9abc:def0:1234:5678]:51820
  HANDSHAKE 12 seconds ago  RECEIVED 1.2 GiB  SENT 2.0 KiB  FLOWS 14  DENIED 3
  LIMITED 120
";
        assert!(text.contains(peer), "{text}");
        let coloured = Screen {
            colours: true,
            ..Screen::default()
        };
        wide.smb.hook = Mode::Observe;
        let narrow = Screen {
            colours: true,
            ..screen
        };
        let smb = smb_line(&wide.smb, narrow);
        assert!(smb.lines().count() > 1, "{smb}");
        assert!(
            smb.lines().all(|line| line.starts_with("\x1b[1;33m")),
            "{smb}"
        );
        wide.smb.hook = Mode::Assign;
        let text = render(&wide, 1_012, coloured);
        assert!(text.contains("\x1b[1;33m120\x1b[0m"), "{text}");
        assert_eq!(text.matches("\x1b[1;33m").count(), 2, "{text}");
    }

    #[test]
    fn peers_are_selected_and_sorted() {
        let names = |selection: Selection| {
            let mut peers = vec![peer("carl"), peer("berta"), peer("anna")];
            peers[0].last_handshake = Some(Timestamp(1_000));
            peers[1].last_handshake = Some(Timestamp(700));
            peers[1].rx_bytes = 5;
            peers[0].connected = true;
            select(&mut peers, &selection, 1_100).unwrap();
            peers.into_iter().map(|peer| peer.name).collect::<Vec<_>>()
        };
        let all = |sort| Selection {
            connected: false,
            peer: None,
            sort,
        };
        assert_eq!(names(all(Key::Name)), ["anna", "berta", "carl"]);
        assert_eq!(names(all(Key::Handshake)), ["carl", "berta", "anna"]);
        assert_eq!(names(all(Key::Received)), ["berta", "anna", "carl"]);
        let connected = Selection {
            connected: true,
            ..all(Key::Name)
        };
        assert_eq!(names(connected), ["carl"]);
        let one = Selection {
            peer: Some("anna".into()),
            ..all(Key::Name)
        };
        assert_eq!(names(one), ["anna"]);
        let none = Selection {
            peer: Some("dora".into()),
            ..all(Key::Name)
        };
        let error = select(&mut vec![peer("anna")], &none, 0).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the endpoint has no peer \"dora\"")
        );
    }
}
