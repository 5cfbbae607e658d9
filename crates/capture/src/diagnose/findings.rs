//! The findings in a capture, as data.

use super::timestamp::Timestamp;
use serde::Serialize;
use std::net::SocketAddr;
use vcgate_wire::smb1::Negotiated;

/// Counts over the whole capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames of which only the beginning was captured.
    pub cut_frames: u64,
    /// Fragments of TCP segments, which are not reassembled.
    pub fragments: u64,
    /// Packets of VPN tunnels.
    pub tunnel_packets: u64,
    /// TCP segments to and from the ports 445 and 139.
    pub segments: u64,
    /// Segments to a server.
    pub segments_to_servers: u64,
    /// Segments that were truncated.
    pub cut_segments: u64,
    /// Connections to these ports.
    pub connections: u64,
    /// Connections of which both directions were captured.
    pub both_directions: u64,
    /// Connections whose data was captured long after its acknowledgement, by another clock.
    pub two_clocks: u64,
    /// Connections without a captured packet from the server, although the client received some.
    pub only_to_server: u64,
    /// Connections without a captured packet from the client.
    pub only_from_server: u64,
    /// Connection attempts without a captured answer.
    pub unanswered: u64,
    /// Connections that were refused, with RST or ICMP.
    pub refused: u64,
    /// NetBIOS session requests that the server declined or redirected.
    pub declined: u64,
    /// Connections that speak SMB1.
    pub smb1: u64,
    /// Connections that speak SMB2 or SMB3.
    pub smb2: u64,
    /// Connections with SMB1 that cannot be parsed.
    pub encrypted: u64,
    /// Session setup requests of SMB1.
    pub session_setups: u64,
    /// Those with VcNumber 0.
    pub zeros: u64,
    /// Those with VcNumber 0 on the clients' side of a gateway that replaced it by another number.
    pub rewritten_zeros: u64,
    /// Session setup requests that were truncated before their VcNumber.
    pub cut_session_setups: u64,
    /// Connections that were ended within a second after a VcNumber 0 from the same address.
    pub victims: u64,
    /// Those whose client sent the VcNumber 0 itself, where that is known.
    pub own_victims: u64,
    /// Connections that ended likewise after a VcNumber 0 from another address.
    pub victims_elsewhere: u64,
    /// Connections that the server no longer knew when their client used them.
    pub lost: u64,
    /// Connections that servers ended without a VcNumber 0 before it.
    pub endings: u64,
    /// Connections that were captured twice, where the capture does not show which copy is on the
    /// server's side.
    pub undecided_sides: u64,
    /// Connections that were dropped from the analysis, to bound the memory.
    pub evicted: u64,
}

/// A server's setting for signing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signing {
    /// It does not.
    Off,
    /// It can.
    Enabled,
    /// It requires it.
    Required,
}

impl From<Negotiated> for Signing {
    fn from(negotiated: Negotiated) -> Self {
        match negotiated {
            Negotiated {
                signing_required: true,
                ..
            } => Self::Required,
            Negotiated {
                signing_enabled: true,
                ..
            } => Self::Enabled,
            _ => Self::Off,
        }
    }
}

/// A session setup request with VcNumber 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// The frame that completes it, as Wireshark counts.
    pub frame: u64,
    /// The time of that frame.
    pub time: Timestamp,
    /// The client's end.
    pub client: SocketAddr,
    /// The client's end on the other side of the NAT.
    pub inner: Option<SocketAddr>,
    /// The server's end.
    pub server: SocketAddr,
    /// Its WordCount.
    pub word_count: u8,
    /// Whether extended security is in use.
    pub extended_security: bool,
    /// The server's setting for signing, if that was captured.
    pub signing: Option<Signing>,
    /// Whether the request is signed.
    pub signed: bool,
    /// The client's operating system, according to the request.
    pub native_os: String,
    /// The client's file sharing software, according to the request.
    pub native_lan_manager: String,
    /// Other connections of the same client address to the same server at this time.
    pub others: u64,
    /// Those that the server had not ended a second later, if the capture lasts that long and
    /// contains what the server sent on them.
    pub unaffected: Option<u64>,
    /// Those on which the server was still sending more than a second later.
    pub seen_alive: u64,
    /// Those that the server ended within the second.
    pub victims: Vec<Ending>,
    /// Those that are known to belong to the same client: ending these is the purpose of VcNumber
    /// 0.
    pub own_victims: Vec<Ending>,
    /// The connection in this capture.
    #[serde(skip)]
    pub flow: u64,
}

/// A connection that a server ended while its client used it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ending {
    /// The frame.
    pub frame: u64,
    /// The time of that frame.
    pub time: Timestamp,
    /// The client's end.
    pub client: SocketAddr,
    /// The client's end on the other side of the NAT.
    pub inner: Option<SocketAddr>,
    /// The server's end.
    pub server: SocketAddr,
    /// "RST" or "FIN".
    pub by: &'static str,
    /// The time since the session setup, in milliseconds.
    pub delay_ms: Option<f64>,
    /// The activity of the connection.
    pub doing: String,
    /// Whether it was in use.
    pub busy: bool,
    /// The time since the last data in seconds, if any was captured.
    pub quiet_seconds: Option<f64>,
    /// The packet's TTL differs from the server's others: a firewall may have sent it.
    pub odd_ttl: bool,
    /// It is a RST without ACK in answer to the client's packet: its sender no longer knew the
    /// connection (RFC 9293 section 3.5.2).
    pub answers: bool,
    /// The connection in this capture.
    #[serde(skip)]
    pub flow: u64,
}
