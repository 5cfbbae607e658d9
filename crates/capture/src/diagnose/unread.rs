//! Counts frames that were not understood, by reason: a diagnosis must say what it did not see.

use hashbrown::HashMap;
use serde::Serialize;
use std::cmp::Reverse;
use std::fmt;

/// The reason why a frame was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// An unsupported link type.
    Link(i32),
    /// Something other than IP in Ethernet.
    EtherType(u16),
    /// Something other than IP in GRE.
    Gre(u16),
    /// A pseudowire or another protocol in MPLS.
    Mpls,
    /// A mirrored or tunnelled frame whose header is not understood.
    Encapsulation(&'static str),
    /// Too many nested encapsulations.
    Depth,
    /// The frame was truncated before the end of the TCP header.
    Cut,
    /// An IP packet with a bad header.
    Malformed,
    /// A fragment of a TCP segment.
    Fragment,
    /// A packet of a VPN.
    Vpn(&'static str),
}

impl Reason {
    /// Whether such a frame may contain SMB.
    pub(super) fn may_hide_smb(self) -> bool {
        !matches!(self, Self::EtherType(kind) if kind != MACSEC)
    }

    /// Whether it is a packet of a VPN.
    pub(super) fn is_vpn(self) -> bool {
        matches!(self, Self::Vpn(_))
    }
}

/// IEEE 802.1AE.
const MACSEC: u16 = 0x88E5;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => match link_name(*link) {
                Some(name) => write!(f, "link type {link} ({name}) is not supported"),
                None => write!(f, "link type {link} is not supported"),
            },
            Self::EtherType(MACSEC) => f.write_str("encrypted by MACsec"),
            Self::EtherType(kind) => write!(f, "EtherType {kind:#06x}, not IP"),
            Self::Gre(kind) => write!(f, "protocol {kind:#06x} in GRE is not supported"),
            Self::Mpls => f.write_str("MPLS with something other than IP in it"),
            Self::Encapsulation(name) => write!(f, "this form of {name} is not supported"),
            Self::Depth => f.write_str("too many encapsulations in one another"),
            Self::Cut => f.write_str("captured without the end of the TCP header"),
            Self::Malformed => f.write_str("IP header with errors"),
            Self::Fragment => f.write_str("IP fragment, which is not reassembled"),
            Self::Vpn(name) => write!(f, "packet of a VPN: {name}"),
        }
    }
}

/// Names of unsupported link types (the tcpdump group's registry).
fn link_name(link: i32) -> Option<&'static str> {
    Some(match link {
        6 => "Token Ring",
        8 => "SLIP",
        10 => "FDDI",
        105 => "Wi-Fi",
        119 => "Wi-Fi with Prism header",
        127 => "Wi-Fi with radiotap header",
        163 => "Wi-Fi with AVS header",
        107 => "frame relay",
        143 => "DOCSIS",
        147..=162 => "private use",
        177 | 220 | 249 => "USB",
        187 | 201 => "Bluetooth",
        192 => "PPI",
        242 => "InfiniBand",
        252 => "Wireshark upper PDU",
        253 => "netlink",
        _ => return None,
    })
}

/// Frames that were not read, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// A description of the reason.
    pub reason: String,
    /// Number of frames.
    pub frames: u64,
    /// Whether SMB may be in such frames.
    pub may_hide_smb: bool,
}

/// Counts frames by reason.
#[derive(Debug, Default)]
pub(super) struct Tally(HashMap<Reason, u64>);

impl Tally {
    /// Adds a frame.
    pub(super) fn add(&mut self, reason: Reason) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// The sum over the reasons that `is_counted` selects.
    pub(super) fn sum(&self, is_counted: impl Fn(Reason) -> bool) -> u64 {
        let counted = self.0.iter().filter(|(reason, _)| is_counted(**reason));
        counted.map(|(_, frames)| frames).sum()
    }

    /// All reasons, the most frequent first.
    pub(super) fn list(&self) -> Vec<Unread> {
        let mut list: Vec<_> = self
            .0
            .iter()
            .map(|(reason, frames)| Unread {
                reason: reason.to_string(),
                frames: *frames,
                may_hide_smb: reason.may_hide_smb(),
            })
            .collect();
        list.sort_by(|a, b| (Reverse(a.frames), &a.reason).cmp(&(Reverse(b.frames), &b.reason)));
        list
    }
}
