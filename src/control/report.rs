//! The reports as data: the JSON that `--json` prints and scripts read.
//!
//! Names are stable: fields may be added, but are not renamed or removed. Units are in the names,
//! times are text (RFC 3339), and a missing value is null. These are types only: the endpoint fills
//! them in, `cli` renders them.

use super::failure::Failure;
use super::time::Timestamp;
use crate::config::PeerState;
use crate::confine::Confinement;
use crate::keys::PublicKey;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use utoipa::ToSchema;
use vcgate_core::smb;

/// A summary of the endpoint: `vcgate status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// vcgate's version.
    pub version: String,
    /// The name of the TUN device, and of the endpoint.
    pub interface: String,
    /// The configuration that it reads, where its path is UTF-8.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The endpoint's public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// The UDP port on which clients connect.
    pub listen_port: u16,
    /// The endpoint's addresses in the tunnel.
    #[schema(value_type = Vec<String>)]
    pub address: Vec<IpNet>,
    /// The LAN side.
    pub lan: Lan,
    /// Seconds since the endpoint began to forward.
    pub uptime_seconds: u64,
    /// The number of threads of the data plane.
    pub shards: usize,
    /// Segmentation and receive offloads in use.
    pub offloads: Vec<String>,
    /// All peers.
    pub peers: Vec<PeerStatus>,
    /// Peers of the configuration that may not connect.
    #[serde(default)]
    pub inactive: Vec<InactivePeer>,
    /// Dropped packets by reason; reasons without a packet may be missing.
    pub drops: BTreeMap<String, u64>,
    /// Restrictions of the process.
    #[serde(default)]
    pub confinement: Option<Confinement>,
    /// The last failed handshakes of senders that are not known to be a peer, oldest first.
    #[serde(default)]
    pub failed_handshakes: Vec<Failure>,
    /// The counters of the DNS server for clients; `None` if it is switched off.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    pub dns: Option<vcgate_dns::Counters>,
    /// The counters of the SMB hook.
    pub smb: SmbCounters,
}

/// The LAN side of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lan {
    /// The interface on the LAN.
    pub interface: String,
    /// The address that flows are translated to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The IPv6 address that flows are translated to, if IPv6 is translated.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address6: Option<IpAddr>,
    /// Whether the address is shared with the host.
    pub mode: LanMode,
    /// Networks that clients know by other addresses.
    #[serde(default)]
    pub mapped: Vec<MappedNetwork>,
    /// The addresses of clients on the LAN, the first ones included.
    #[serde(default)]
    pub addresses: Vec<LanAddress>,
    /// Other stations that were lately heard to use the addresses.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
}

/// An address of clients on the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LanAddress {
    /// The address, as hosts on the LAN see it.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The name of the only peer that uses it; `None` if clients share it.
    pub peer: Option<String>,
    /// Inner addresses that have ports or flows there.
    pub clients: u64,
    /// Ports that are assigned to clients.
    pub ports: u64,
    /// Whether another station was lately heard to use it.
    pub conflict: bool,
}

/// A network of the LAN that clients know by other addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MappedNetwork {
    /// The network's own prefix.
    #[schema(value_type = String)]
    pub network: IpNet,
    /// The prefix by which clients know it.
    #[schema(value_type = String)]
    pub known_as: IpNet,
}

/// Another station on the LAN uses an address of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conflict {
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The station's hardware address.
    pub station: String,
    /// The time of its first packet.
    #[schema(value_type = String)]
    pub first_seen: Timestamp,
    /// The time of its last packet.
    #[schema(value_type = String)]
    pub last_seen: Timestamp,
    /// The number of its packets.
    pub packets: u64,
}

/// The owner of the address that clients share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LanMode {
    /// The endpoint: no other host has the address.
    Fixed,
    /// The host: it masquerades a private transit address as its own.
    Auto,
}

/// A peer of the configuration that may not connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InactivePeer {
    /// Its name in the configuration.
    pub name: String,
    /// Its public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// The reason.
    pub state: PeerState,
    /// The time at which it expires or has expired, if there is one.
    #[schema(value_type = Option<String>)]
    pub expires: Option<Timestamp>,
}

/// A link by which a peer's file can be fetched once: `vcgate peer link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkReport {
    /// The peer's name.
    pub peer: String,
    /// The address to hand out: whole, or from the slash after the host on, if `admin.url` is not set.
    pub url: String,
    /// The time from which it no longer works.
    #[schema(value_type = String)]
    pub expires: Timestamp,
}

/// The state of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// The source of its last authenticated datagram.
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// Its inner addresses.
    #[schema(value_type = Vec<String>)]
    pub allowed_ips: Vec<IpNet>,
    /// The time of the last completed handshake.
    #[schema(value_type = Option<String>)]
    pub last_handshake: Option<Timestamp>,
    /// When the last authentic message arrived from it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub last_seen: Option<Timestamp>,
    /// Bytes received from it, as UDP payload.
    pub rx_bytes: u64,
    /// Bytes sent to it, as UDP payload.
    pub tx_bytes: u64,
    /// The keepalive interval.
    pub persistent_keepalive_seconds: Option<u16>,
    /// Packets that wait for a session.
    pub queued_packets: usize,
    /// Live flows.
    pub flows: usize,
    /// Packets that its rules denied.
    #[serde(default)]
    pub denied_packets: u64,
    /// Packets that exceeded one of its limits, or for which no port was free.
    #[serde(default)]
    pub limited_packets: u64,
    /// Whether there is a session.
    #[serde(default)]
    pub connected: bool,
    /// The last reason why it could not connect, or does not work.
    #[serde(default)]
    pub last_failure: Option<Failure>,
}

/// One translated flow: an element of `vcgate flows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// The peer's name.
    pub peer: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The client's address and port, inside the tunnel. For ICMP the port is the identifier.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The client's address and port after translation, on the LAN.
    #[schema(value_type = String)]
    pub lan: SocketAddr,
    /// The remote address and port. For ICMP the port is 0.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    /// The address by which the client knows the remote host, if it is mapped to another one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub remote_known_as: Option<IpAddr>,
    /// The NAT's state of the flow, such as `established`.
    pub state: String,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// Bytes from the client.
    pub to_lan_bytes: u64,
    /// Packets from the client.
    pub to_lan_packets: u64,
    /// Bytes to the client.
    pub to_client_bytes: u64,
    /// Packets to the client.
    pub to_client_packets: u64,
    /// The SMB hook's state, if it inspects the flow.
    #[serde(default)]
    pub smb: Option<FlowSmb>,
}

/// The protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// ICMP echo
    Icmp,
}

impl Protocol {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// The SMB hook's view of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowSmb {
    /// The VcNumber of the flow, if it has one.
    pub vc_number: Option<u16>,
    /// The state of the stream, such as `smb1`, or `bypass: ` and the reason.
    pub state: String,
}

/// The state of the SMB hook: `vcgate smb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SmbReport {
    /// The mode and the counters.
    #[serde(flatten)]
    pub counters: SmbCounters,
    /// Live flows that the hook inspects.
    pub flows: Vec<SmbFlow>,
    /// The last logons, oldest first.
    pub recent: Vec<Logon>,
}

/// The counters of the SMB hook since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SmbCounters {
    /// The mode.
    #[schema(value_type = String)]
    pub hook: smb::Mode,
    /// SESSION_SETUP_ANDX requests.
    pub session_setups: u64,
    /// Requests that came with VcNumber 0.
    pub zero_seen: u64,
    /// Requests whose VcNumber was replaced.
    pub rewritten: u64,
    /// Requests whose VcNumber was right already.
    #[serde(default)]
    pub preserved: u64,
    /// Requests that were not changed because a signature covers them.
    pub signed_untouched: u64,
    /// Older connections of a client that connected again, for which it got a probe.
    #[serde(default)]
    pub stale_probed: u64,
    /// Older connections that the client still used.
    #[serde(default)]
    pub stale_alive: u64,
    /// Older connections that were reset.
    #[serde(default)]
    pub stale_reset: u64,
    /// SESSION_SETUP_ANDX requests that were recognized on flows in bypass.
    #[serde(default)]
    pub unread_setups: u64,
    /// Flows that share their VcNumber with another flow, since none was free.
    #[serde(default)]
    pub shared_numbers: u64,
    /// Connections that the hook reset since too many requests awaited the server's acknowledgement.
    #[serde(default)]
    pub aborted: u64,
    /// Connections that the hook reset since it could not read them.
    #[serde(default)]
    pub unreadable_reset: u64,
    /// Messages with a chain of commands that servers reject.
    #[serde(default)]
    pub bad_chains: u64,
    /// Packets that were held until the bytes before them arrived.
    #[serde(default)]
    pub held: u64,
    /// Packets that were dropped because too many were held; TCP sends them again.
    #[serde(default)]
    pub held_dropped: u64,
    /// Packets of clients that servers would ignore, dropped unread.
    #[serde(default)]
    pub invalid_dropped: u64,
    /// Events that are missing in the log and the timeline, since there were too many at a time.
    #[serde(default)]
    pub events_dropped: u64,
    /// Flows in bypass, by reason.
    pub bypassed: BTreeMap<String, u64>,
}

impl SmbCounters {
    /// Adds the counters of another shard.
    pub fn add(&mut self, other: Self) {
        let Self {
            hook: _,
            session_setups,
            zero_seen,
            rewritten,
            preserved,
            signed_untouched,
            stale_probed,
            stale_alive,
            stale_reset,
            unread_setups,
            shared_numbers,
            aborted,
            unreadable_reset,
            bad_chains,
            held,
            held_dropped,
            invalid_dropped,
            events_dropped,
            bypassed,
        } = other;
        self.session_setups += session_setups;
        self.zero_seen += zero_seen;
        self.rewritten += rewritten;
        self.preserved += preserved;
        self.signed_untouched += signed_untouched;
        self.stale_probed += stale_probed;
        self.stale_alive += stale_alive;
        self.stale_reset += stale_reset;
        self.unread_setups += unread_setups;
        self.shared_numbers += shared_numbers;
        self.aborted += aborted;
        self.unreadable_reset += unreadable_reset;
        self.bad_chains += bad_chains;
        self.held += held;
        self.held_dropped += held_dropped;
        self.invalid_dropped += invalid_dropped;
        self.events_dropped += events_dropped;
        for (reason, count) in bypassed {
            *self.bypassed.entry(reason).or_default() += count;
        }
    }
}

/// One live flow to an SMB server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SmbFlow {
    /// The peer's name.
    pub peer: String,
    /// The client's address and port, inside the tunnel.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The server.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// The VcNumber and the state.
    #[serde(flatten)]
    pub smb: FlowSmb,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
}

/// A SESSION_SETUP_ANDX request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Logon {
    /// The time of the request.
    #[schema(value_type = String)]
    pub time: Timestamp,
    /// The peer's name.
    pub peer: String,
    /// The server.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// The VcNumber that the client sent.
    pub vc_sent: u16,
    /// The VcNumber that the server got.
    pub vc_forwarded: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts rely on these names: this test changes only when a field is added.
    #[test]
    fn json_names_are_stable() {
        let flow = Flow {
            peer: "anna".into(),
            protocol: Protocol::Tcp,
            client: "10.8.0.11:49152".parse().unwrap(),
            lan: "192.168.77.2:50000".parse().unwrap(),
            remote: "[fd00::10]:445".parse().unwrap(),
            remote_known_as: "fd00:99::10".parse().ok(),
            state: "established".into(),
            idle_seconds: 3,
            to_lan_bytes: 10,
            to_lan_packets: 1,
            to_client_bytes: 20,
            to_client_packets: 2,
            smb: Some(FlowSmb {
                vc_number: Some(1),
                state: "smb1".into(),
            }),
        };
        let text = concat!(
            r#"{"peer":"anna","protocol":"tcp","client":"10.8.0.11:49152","#,
            r#""lan":"192.168.77.2:50000","remote":"[fd00::10]:445","#,
            r#""remote_known_as":"fd00:99::10","state":"established","#,
            r#""idle_seconds":3,"to_lan_bytes":10,"to_lan_packets":1,"to_client_bytes":20,"#,
            r#""to_client_packets":2,"smb":{"vc_number":1,"state":"smb1"}}"#,
        );
        assert_eq!(serde_json::to_string(&flow).unwrap(), text);
        assert_eq!(serde_json::from_str::<Flow>(text).unwrap(), flow);

        let report = SmbReport {
            counters: SmbCounters {
                hook: smb::Mode::Assign,
                zero_seen: 2,
                bypassed: [("smb2".into(), 4)].into(),
                ..SmbCounters::default()
            },
            flows: vec![SmbFlow {
                peer: "anna".into(),
                client: flow.client,
                server: flow.remote,
                smb: FlowSmb {
                    vc_number: None,
                    state: "negotiating".into(),
                },
                idle_seconds: 0,
            }],
            recent: vec![Logon {
                time: Timestamp(1_700_000_000),
                peer: "anna".into(),
                server: flow.remote,
                vc_sent: 0,
                vc_forwarded: 1,
            }],
        };
        let text = concat!(
            r#"{"hook":"assign","session_setups":0,"zero_seen":2,"rewritten":0,"preserved":0,"#,
            r#""signed_untouched":0,"stale_probed":0,"stale_alive":0,"stale_reset":0,"#,
            r#""unread_setups":0,"shared_numbers":0,"aborted":0,"unreadable_reset":0,"bad_chains":0,"#,
            r#""held":0,"held_dropped":0,"invalid_dropped":0,"events_dropped":0,"#,
            r#""bypassed":{"smb2":4},"flows":[{"peer":"anna","#,
            r#""client":"10.8.0.11:49152","server":"[fd00::10]:445","vc_number":null,"#,
            r#""state":"negotiating","idle_seconds":0}],"recent":[{"time":"2023-11-14T22:13:20Z","#,
            r#""peer":"anna","server":"[fd00::10]:445","vc_sent":0,"vc_forwarded":1}]}"#,
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
        assert_eq!(serde_json::from_str::<SmbReport>(text).unwrap(), report);
    }

    #[test]
    fn a_status_round_trips_through_json() {
        let text = concat!(
            r#"{"version":"0.1.0","interface":"vcg0","#,
            r#""file":"/etc/vcgate/vcgate.toml","#,
            r#""public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","listen_port":51820,"#,
            r#""address":["10.8.0.1/24"],"lan":{"interface":"eth0","address":"192.168.77.2","#,
            r#""address6":null,"mode":"fixed","mapped":[{"network":"192.168.77.0/24","#,
            r#""known_as":"10.77.1.0/24"}],"addresses":[{"address":"192.168.77.2","peer":null,"clients":1,"ports":64,"conflict":false}],"conflicts":[]},"uptime_seconds":60,"shards":2,"offloads":["udp_gro"],"peers":[{"#,
            r#""name":"anna","public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","#,
            r#""endpoint":null,"allowed_ips":["10.8.0.11/32"],"last_handshake":null,"last_seen":null,"#,
            r#""rx_bytes":0,"tx_bytes":0,"persistent_keepalive_seconds":25,"queued_packets":0,"#,
            r#""flows":0,"denied_packets":0,"limited_packets":0,"connected":true,"last_failure":null}],"#,
            r#""inactive":[{"name":"bert","public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","#,
            r#""state":"expired","expires":"2023-11-14T22:13:20Z"}],"drops":{"no_mapping":7},"confinement":null,"failed_handshakes":[],"#,
            r#""dns":{"queries":9,"local":1,"cache_hits":2,"forwarded":1,"netbios":1,"refused":1,"failed":1,"limited":2},"#,
            r#""smb":{"hook":"off","session_setups":0,"#,
            r#""zero_seen":0,"rewritten":0,"preserved":0,"signed_untouched":0,"stale_probed":0,"#,
            r#""stale_alive":0,"stale_reset":0,"unread_setups":0,"shared_numbers":0,"#,
            r#""aborted":0,"unreadable_reset":0,"bad_chains":0,"held":0,"held_dropped":0,"invalid_dropped":0,"events_dropped":0,"bypassed":{}}}"#,
        );
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
    }
}
