//! The metadata of a captured packet: its peer, its flow and its fate. It is formatted only when
//! it is read, never in the pipeline.

use crate::nat::Reason;
use crate::smb::Change;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use vcgate_wire::packet::Packet;

/// The direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From a client.
    ToLan,
    /// To a client.
    ToClient,
}

/// An end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port, if the packet has one.
    pub port: Option<u16>,
}

impl End {
    /// Returns the source and the destination of a packet.
    pub(super) fn both(packet: &Packet<'_>) -> (Self, Self) {
        let ports = packet.ports();
        let end = |address, port| Self { address, port };
        (
            end(packet.headers.src, ports.map(|(from, _)| from)),
            end(packet.headers.dst, ports.map(|(_, to)| to)),
        )
    }

    /// Whether both can be the same end: a later fragment has no ports.
    pub(super) fn matches(self, other: Self) -> bool {
        let unknown = self.port.is_none() || other.port.is_none();
        self.address == other.address && (unknown || self.port == other.port)
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: address.ip(),
            port: Some(address.port()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// The fate of a packet that did not leave at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// No rule of the client's allows it.
    Denied,
    /// The NAT dropped it.
    Dropped(Reason),
    /// The NAT answered it with an ICMP error.
    Refused,
    /// Its TCP checksum is wrong, and the hook would have read it.
    Damaged,
    /// The hook dropped it: the server must not receive it.
    DroppedByHook,
    /// The hook holds it: bytes before it are missing.
    Held,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "dropped: no rule allows it",
            Self::Dropped(reason) => return write!(f, "dropped by the NAT: {}", reason.name()),
            Self::Refused => "refused with an ICMP error",
            Self::Damaged => "dropped: its TCP checksum is wrong",
            Self::DroppedByHook => "dropped by the SMB hook: it must not reach the server",
            Self::Held => "held until the bytes before it arrive",
        })
    }
}

/// The peer, the flow and the fate of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketMetadata {
    /// Its direction.
    pub direction: Direction,
    /// The peer's name.
    pub peer: Option<Arc<str>>,
    /// The client's end.
    pub inner: Option<End>,
    /// The end that the LAN sees instead, if it is another one.
    pub lan: Option<End>,
    /// The end on the LAN.
    pub remote: End,
    /// The address by which the client knows the end on the LAN, if it is another one.
    pub mapped: Option<IpAddr>,
    /// The hook's changes to it.
    pub changes: Vec<Change>,
    /// Its fate, unless it left.
    pub note: Option<Note>,
}

impl PacketMetadata {
    pub(super) fn new(direction: Direction, remote: End) -> Self {
        Self {
            direction,
            peer: None,
            inner: None,
            lan: None,
            remote,
            mapped: None,
            changes: Vec::new(),
            note: None,
        }
    }

    /// Whether a packet to the LAN with these ends belongs to the flow.
    pub(super) fn leads(&self, from: End, to: End) -> bool {
        let near = match (self.lan, self.direction) {
            (Some(lan), _) => lan.matches(from),
            // It has just been translated.
            (None, Direction::ToLan) => true,
            (None, Direction::ToClient) => self.inner.is_some_and(|inner| inner.matches(from)),
        };
        near && self.remote.matches(to)
    }

    /// Whether the flow joins a client's end and an end on the LAN.
    pub(super) fn joins(&self, inner: End, remote: End) -> bool {
        self.remote.matches(remote) && self.inner.is_some_and(|own| own.matches(inner))
    }
}

/// `anna 10.8.0.3:51112 → 192.168.77.10:445 as 192.168.77.2:40021; VcNumber 0 → 3`
impl fmt::Display for PacketMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(peer) = &self.peer {
            write!(f, "{peer} ")?;
        }
        let arrow = match self.direction {
            Direction::ToLan => '→',
            Direction::ToClient => '←',
        };
        if let Some(near) = self.inner.or(self.lan) {
            write!(f, "{near} ")?;
        }
        write!(f, "{arrow} {}", self.remote)?;
        if let Some(mapped) = self.mapped {
            write!(f, " (for the client {mapped})")?;
        }
        if let (Some(_), Some(lan)) = (self.inner, self.lan) {
            write!(f, " as {lan}")?;
        }
        for Change { asked, given } in &self.changes {
            write!(f, "; VcNumber {asked} → {given}")?;
        }
        match self.note {
            Some(note) => write!(f, "; {note}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smb::VcNumber;

    fn end(address: &str, port: impl Into<Option<u16>>) -> End {
        End {
            address: address.parse().unwrap(),
            port: port.into(),
        }
    }

    fn metadata() -> PacketMetadata {
        PacketMetadata {
            direction: Direction::ToLan,
            peer: Some("anna".into()),
            inner: Some(end("10.8.0.3", 51112)),
            lan: Some(end("192.168.77.2", 40021)),
            remote: end("192.168.77.10", 445),
            mapped: None,
            changes: Vec::new(),
            note: None,
        }
    }

    #[test]
    fn formats_as_a_comment() {
        let changed = vec![Change {
            asked: 0,
            given: VcNumber::new(3).unwrap(),
        }];
        for (metadata, text) in [
            (
                PacketMetadata {
                    changes: changed,
                    ..metadata()
                },
                "anna 10.8.0.3:51112 → 192.168.77.10:445 as 192.168.77.2:40021; VcNumber 0 → 3",
            ),
            (
                PacketMetadata {
                    direction: Direction::ToClient,
                    ..metadata()
                },
                "anna 10.8.0.3:51112 ← 192.168.77.10:445 as 192.168.77.2:40021",
            ),
            (
                PacketMetadata {
                    lan: None,
                    note: Some(Note::Denied),
                    ..metadata()
                },
                "anna 10.8.0.3:51112 → 192.168.77.10:445; dropped: no rule allows it",
            ),
            (
                PacketMetadata {
                    inner: Some(end("fd00:8::3", 1)),
                    lan: Some(end("fd00:77::2", None)),
                    remote: end("fd00:77::10", None),
                    ..metadata()
                },
                "anna [fd00:8::3]:1 → fd00:77::10 as fd00:77::2",
            ),
            (
                PacketMetadata {
                    mapped: "10.77.1.10".parse().ok(),
                    ..metadata()
                },
                "anna 10.8.0.3:51112 → 192.168.77.10:445 (for the client 10.77.1.10) as \
                 192.168.77.2:40021",
            ),
            (
                PacketMetadata {
                    direction: Direction::ToClient,
                    peer: None,
                    inner: None,
                    note: Some(Note::Dropped(Reason::NoMapping)),
                    ..metadata()
                },
                "192.168.77.2:40021 ← 192.168.77.10:445; dropped by the NAT: no_mapping",
            ),
        ] {
            assert_eq!(metadata.to_string(), text);
        }
    }

    #[test]
    fn a_later_fragment_matches_any_port_of_its_host() {
        assert!(end("10.8.0.3", None).matches(end("10.8.0.3", 1)));
        assert!(end("10.8.0.3", 1).matches(end("10.8.0.3", 1)));
        assert!(!end("10.8.0.3", 2).matches(end("10.8.0.3", 1)));
        assert!(!end("10.8.0.4", None).matches(end("10.8.0.3", None)));
    }
}
