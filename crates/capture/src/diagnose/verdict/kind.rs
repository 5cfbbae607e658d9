//! The kinds of problems.

use super::Evidence;
use serde::Serialize;

/// The kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Logons with VcNumber 0 end the connections of other clients.
    CutOff,
    /// The same, seen from the clients' side of a NAT.
    CutOffThroughNat,
    /// Such logons end older connections of the same clients, which is their purpose.
    CameBack,
    /// There are such logons, and connections that the server no longer knew when they were used.
    LostBefore,
    /// There are such logons, and the server does not end other connections.
    Unaffected,
    /// There are such logons, and the capture ends before the effect could be seen.
    TooEarly,
    /// There are such logons, and no other client was connected.
    NoOtherClient,
    /// The clients send such logons, and a gateway replaces the number.
    Rewritten,
    /// There are logons, none with VcNumber 0.
    NoZero,
    /// The capture contains only one direction.
    OneDirection,
    /// The two directions were captured with different clocks.
    TwoClocks,
    /// The packets were truncated before the relevant bytes.
    CutShort,
    /// SMB1, but no logon.
    NoLogon,
    /// SMB2 or SMB3.
    Smb2,
    /// SMB1 that cannot be parsed.
    Encrypted,
    /// The server declines NetBIOS calls.
    Declined,
    /// The server refuses connections.
    Refused,
    /// Connection attempts without a captured answer.
    Unanswered,
    /// Connections to the ports of a file server on which no SMB can be parsed.
    Unknown,
    /// Packets of a VPN.
    Tunnel,
    /// Frames of unsupported types.
    Unreadable,
    /// No traffic of a file server.
    NoSmb,
}

impl Kind {
    /// Whether the limits of the capture are part of the reasons.
    pub fn names_limits(self) -> bool {
        // The other kinds describe such a limit themselves.
        !matches!(
            self,
            Self::OneDirection | Self::TwoClocks | Self::CutShort | Self::Tunnel | Self::Unreadable
        )
    }
}

/// Determines the kind of the problem.
pub(super) fn kind(evidence: &Evidence<'_>) -> Kind {
    let counts = evidence.counts;
    if counts.zeros > 0 && 2 * counts.two_clocks > counts.both_directions {
        Kind::TwoClocks
    } else if counts.victims > 0 {
        Kind::CutOff
    } else if counts.victims_elsewhere > 0 {
        Kind::CutOffThroughNat
    } else if counts.own_victims > 0 {
        Kind::CameBack
    } else if counts.zeros > 0 {
        with_zeros(evidence)
    } else if counts.rewritten_zeros > 0 {
        Kind::Rewritten
    } else if one_direction(evidence) && counts.smb2 < counts.connections {
        Kind::OneDirection
    } else if counts.session_setups > 0 {
        Kind::NoZero
    } else if counts.cut_session_setups > 0
        || (counts.cut_segments > 0 && counts.smb1 + counts.smb2 + counts.encrypted == 0)
    {
        Kind::CutShort
    } else if counts.smb1 > 0 {
        Kind::NoLogon
    } else if counts.encrypted > 0 {
        Kind::Encrypted
    } else if counts.smb2 > 0 {
        Kind::Smb2
    } else if counts.connections > 0 {
        without_smb(evidence)
    } else if evidence
        .capture
        .unread
        .iter()
        .any(|unread| unread.may_hide_smb)
    {
        match counts.tunnel_packets > 0 {
            true => Kind::Tunnel,
            false => Kind::Unreadable,
        }
    } else {
        Kind::NoSmb
    }
}

/// There are logons with VcNumber 0, and no connection was ended after one.
fn with_zeros(evidence: &Evidence<'_>) -> Kind {
    let any = |is: fn(&super::Request) -> bool| evidence.requests.iter().any(is);
    if any(|r| r.seen_alive > 0) {
        Kind::Unaffected
    } else if evidence.counts.lost > 0 {
        Kind::LostBefore
    } else if any(|r| r.unaffected.is_some_and(|n| n > 0)) {
        Kind::Unaffected
    } else if one_direction(evidence) || evidence.counts.only_to_server > 0 {
        Kind::OneDirection
    } else if any(|r| r.others > 0 && r.unaffected.is_none()) {
        Kind::TooEarly
    } else {
        Kind::NoOtherClient
    }
}

/// There are connections, and no SMB was read on any.
fn without_smb(evidence: &Evidence<'_>) -> Kind {
    let counts = evidence.counts;
    if counts.declined > 0 {
        Kind::Declined
    } else if counts.refused > 0 {
        Kind::Refused
    } else if counts.unanswered == counts.connections {
        Kind::Unanswered
    } else {
        Kind::Unknown
    }
}

/// Whether no packet of one direction was captured, although some must have been sent.
fn one_direction(evidence: &Evidence<'_>) -> bool {
    let counts = evidence.counts;
    let only_from_servers = counts.segments > 0 && counts.segments_to_servers == 0;
    let only_to_servers = counts.segments > 0 && counts.segments_to_servers == counts.segments;
    only_from_servers || (only_to_servers && counts.only_to_server > 0)
}
