//! The addresses and lengths of IPv6 tests.

pub(super) use super::*;

pub(super) type World = super::World<V6>;

pub(super) const LAN: IpAddr = IpAddr::V6(LAN6);
pub(super) const GATEWAY: IpAddr = IpAddr::V6(GATEWAY6);
pub(super) const ALICE: IpAddr = IpAddr::V6(ALICE6);
pub(super) const BOB: IpAddr = IpAddr::V6(BOB6);
pub(super) const SERVER: IpAddr = IpAddr::V6(SERVER6);
pub(super) const OTHER: IpAddr = IpAddr::V6(OTHER6);

/// The length of the IP header.
pub(super) const IP: usize = 40;
/// Maximum length of an ICMPv6 error, in bytes (RFC 4443 section 2.4).
pub(super) const LONGEST_ERROR: usize = 1280;

pub(super) const TIME_EXCEEDED: (u8, u8) = (3, 0);
pub(super) const TOO_BIG: (u8, u8) = (2, 0);
pub(super) const PROHIBITED: (u8, u8) = (1, 1);
pub(super) const PORT_UNREACHABLE: (u8, u8) = (1, 4);
pub(super) const ERRORS: [(u8, u8); 6] = [(1, 0), (1, 3), (1, 4), (2, 0), (3, 0), (4, 1)];
/// Router advertisement, neighbour solicitation and advertisement, redirect, and an unassigned
/// type.
pub(super) const NEVER: [(u8, u8); 5] = [(134, 0), (135, 0), (136, 0), (137, 0), (200, 0)];
/// Each query and its reply: echo.
pub(super) const QUERIES: [[u8; 2]; 1] = [[128, 129]];

pub(super) fn client(a: u8, b: u8) -> IpAddr {
    Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, a.into(), b.into()).into()
}

pub(super) fn neighbour(n: u8) -> IpAddr {
    Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, n.into()).into()
}

/// Fragments a datagram into parts of at most `step` bytes.
pub(super) fn in_fragments(datagram: &[u8], id: u16, step: u16) -> Vec<Vec<u8>> {
    ipv6::fragments_of(datagram, id.into(), step.into(), false)
}
