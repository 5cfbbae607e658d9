//! What is told of a captured packet: whose it is, which flow it belongs to, and what was done
//! to it. It is put into words only when somebody reads them.

use crate::nat::Reason;
use crate::smb::Change;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use vcgate_wire::packet::Packet;

/// Which way a packet goes.
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
    /// Its port, where the packet says it.
    pub port: Option<u16>,
}

impl End {
    /// Where a packet comes from and where it goes.
    pub(super) fn both(packet: &Packet<'_>) -> (Self, Self) {
        let ports = packet.ports();
        let end = |address, port| Self { address, port };
        (
            end(packet.headers.src, ports.map(|(from, _)| from)),
            end(packet.headers.dst, ports.map(|(_, to)| to)),
        )
    }

    /// Whether it can be the same one: a fragment does not say its ports.
    pub(super) fn fits(self, other: Self) -> bool {
        let unsaid = self.port.is_none() || other.port.is_none();
        self.address == other.address && (unsaid || self.port == other.port)
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

/// What else became of a packet.
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
    /// The hook dropped it: the server must not get it.
    Unwanted,
    /// The hook holds it back: bytes before it are missing.
    Held,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "dropped: no rule allows it",
            Self::Dropped(reason) => return write!(f, "dropped by the NAT: {}", reason.name()),
            Self::Refused => "refused with an ICMP error",
            Self::Damaged => "dropped: its TCP checksum is wrong",
            Self::Unwanted => "dropped by the SMB hook: it must not reach the server",
            Self::Held => "held back until what precedes it has come",
        })
    }
}

/// What is told of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketMetadata {
    /// Which way it goes.
    pub direction: Direction,
    /// The peer's name.
    pub peer: Option<Arc<str>>,
    /// The client's end.
    pub inner: Option<End>,
    /// What the LAN sees in its place, if that is something else.
    pub lan: Option<End>,
    /// The other end.
    pub far: End,
    /// What the hook changed in it.
    pub changes: Vec<Change>,
    /// What else became of it.
    pub note: Option<Note>,
}

impl PacketMetadata {
    pub(super) fn new(direction: Direction, far: End) -> Self {
        Self {
            direction,
            peer: None,
            inner: None,
            lan: None,
            far,
            changes: Vec::new(),
            note: None,
        }
    }

    /// Whether a packet to the LAN with these ends is of the same flow.
    pub(super) fn leads(&self, from: End, to: End) -> bool {
        let near = match (self.lan, self.direction) {
            (Some(lan), _) => lan.fits(from),
            // It has just been translated.
            (None, Direction::ToLan) => true,
            (None, Direction::ToClient) => self.inner.is_some_and(|inner| inner.fits(from)),
        };
        near && self.far.fits(to)
    }

    /// Whether it is of a flow between a client's end and another one.
    pub(super) fn meets(&self, inner: End, far: End) -> bool {
        self.far.fits(far) && self.inner.is_some_and(|own| own.fits(inner))
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
        write!(f, "{arrow} {}", self.far)?;
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

    fn end(address: &str, port: impl Into<Option<u16>>) -> End {
        End {
            address: address.parse().unwrap(),
            port: port.into(),
        }
    }

    fn story() -> PacketMetadata {
        PacketMetadata {
            direction: Direction::ToLan,
            peer: Some("anna".into()),
            inner: Some(end("10.8.0.3", 51112)),
            lan: Some(end("192.168.77.2", 40021)),
            far: end("192.168.77.10", 445),
            changes: Vec::new(),
            note: None,
        }
    }

    #[test]
    fn what_comments_say() {
        let changed = vec![Change { asked: 0, given: 3 }];
        for (story, text) in [
            (
                PacketMetadata {
                    changes: changed,
                    ..story()
                },
                "anna 10.8.0.3:51112 → 192.168.77.10:445 as 192.168.77.2:40021; VcNumber 0 → 3",
            ),
            (
                PacketMetadata {
                    direction: Direction::ToClient,
                    ..story()
                },
                "anna 10.8.0.3:51112 ← 192.168.77.10:445 as 192.168.77.2:40021",
            ),
            (
                PacketMetadata {
                    lan: None,
                    note: Some(Note::Denied),
                    ..story()
                },
                "anna 10.8.0.3:51112 → 192.168.77.10:445; dropped: no rule allows it",
            ),
            (
                PacketMetadata {
                    inner: Some(end("fd00:8::3", 1)),
                    lan: Some(end("fd00:77::2", None)),
                    far: end("fd00:77::10", None),
                    ..story()
                },
                "anna [fd00:8::3]:1 → fd00:77::10 as fd00:77::2",
            ),
            (
                PacketMetadata {
                    direction: Direction::ToClient,
                    peer: None,
                    inner: None,
                    note: Some(Note::Dropped(Reason::NoMapping)),
                    ..story()
                },
                "192.168.77.2:40021 ← 192.168.77.10:445; dropped by the NAT: no_mapping",
            ),
        ] {
            assert_eq!(story.to_string(), text);
        }
    }

    #[test]
    fn a_fragment_fits_both_ports_of_its_host() {
        assert!(end("10.8.0.3", None).fits(end("10.8.0.3", 1)));
        assert!(end("10.8.0.3", 1).fits(end("10.8.0.3", 1)));
        assert!(!end("10.8.0.3", 2).fits(end("10.8.0.3", 1)));
        assert!(!end("10.8.0.4", None).fits(end("10.8.0.3", None)));
    }
}
