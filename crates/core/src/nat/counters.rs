//! What the NAT did, in numbers.

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An address family that is not translated.
    Family,
    /// A protocol that is not translated.
    Protocol,
    /// An L4 header that is cut or lies about its length.
    Truncated,
    /// UDP over IPv6 without a checksum (RFC 8200 section 8.1).
    NoChecksum,
    /// An ICMP error whose checksum is wrong, or that of the IP header that it quotes (RFC 5508
    /// REQ-3).
    BadChecksum,
    /// An ICMP type that no router translates, or one from the wrong side.
    IcmpType,
    /// An ICMP error whose quote is cut, or about nothing that was translated.
    Quote,
    /// From the LAN, but not to the LAN address.
    NotOurs,
    /// From the LAN, to a port that nobody has, or for an inner address that is no peer's.
    NoMapping,
    /// From the LAN, to a mapped port, from a sender that the client never sent to.
    Filtered,
    /// A TCP segment of no session that cannot open one.
    NoSession,
    /// No port was left, or the peer has as many as it may.
    NoPort,
    /// The peer has as many sessions as it may.
    Sessions,
    /// The peer opened too many sessions in too short a time.
    Rate,
    /// Too big for the tunnel, and not to be fragmented.
    TooBig,
    /// Its TTL ended here.
    Expired,
    /// A fragment so small or so placed that it could hide an L4 header (RFC 1858, RFC 3128), or
    /// beyond what a datagram can hold.
    BadFragment,
    /// A fragment that overlaps another one of its datagram (RFC 1858).
    OverlappingFragment,
    /// A fragment of a sender that has too many datagrams in pieces.
    FragmentFlood,
}

impl Reason {
    /// All of them, each at the place of its own number.
    pub const ALL: [Self; 19] = [
        Self::Family,
        Self::Protocol,
        Self::Truncated,
        Self::NoChecksum,
        Self::BadChecksum,
        Self::IcmpType,
        Self::Quote,
        Self::NotOurs,
        Self::NoMapping,
        Self::Filtered,
        Self::NoSession,
        Self::NoPort,
        Self::Sessions,
        Self::Rate,
        Self::TooBig,
        Self::Expired,
        Self::BadFragment,
        Self::OverlappingFragment,
        Self::FragmentFlood,
    ];

    /// Whether it is a limit of the sender (RFC 6888 REQ-4, RFC 4787 REQ-14), or a lack of ports.
    pub fn is_limit(self) -> bool {
        matches!(
            self,
            Self::NoPort | Self::Sessions | Self::Rate | Self::FragmentFlood
        )
    }

    /// Its name, as a metric's label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Family => "family",
            Self::Protocol => "protocol",
            Self::Truncated => "truncated",
            Self::NoChecksum => "no_checksum",
            Self::BadChecksum => "bad_checksum",
            Self::IcmpType => "icmp_type",
            Self::Quote => "quote",
            Self::NotOurs => "not_ours",
            Self::NoMapping => "no_mapping",
            Self::Filtered => "filtered",
            Self::NoSession => "no_session",
            Self::NoPort => "no_port",
            Self::Sessions => "sessions",
            Self::Rate => "rate",
            Self::TooBig => "too_big",
            Self::Expired => "expired",
            Self::BadFragment => "bad_fragment",
            Self::OverlappingFragment => "overlapping_fragment",
            Self::FragmentFlood => "fragment_flood",
        }
    }
}

/// How many packets (a super-packet counts once) met which end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Translated on the way to the LAN.
    pub outbound: u64,
    /// Translated on the way to a client.
    pub inbound: u64,
    /// From one client to another by way of the LAN address.
    pub hairpinned: u64,
    /// Answered with an ICMP error.
    pub refused: u64,
    /// Held back, for a first fragment or for a client's SYN.
    pub held: u64,
    dropped: [u64; Reason::ALL.len()],
}

impl Counters {
    /// Dropped for this reason, answered or not.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn drop(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(names.insert(reason.name()));
        }
    }
}
