//! The addresses and lengths of IPv4 tests.

pub(super) use super::*;

pub(super) type World = super::World<V4>;

pub(super) const LAN: IpAddr = IpAddr::V4(super::LAN);
pub(super) const GATEWAY: IpAddr = IpAddr::V4(super::GATEWAY);
pub(super) const ALICE: IpAddr = IpAddr::V4(super::ALICE);
pub(super) const BOB: IpAddr = IpAddr::V4(super::BOB);
pub(super) const SERVER: IpAddr = IpAddr::V4(super::SERVER);
pub(super) const OTHER: IpAddr = IpAddr::V4(super::OTHER);

/// The length of the IP header, in bytes.
pub(super) const IP: usize = 20;
/// Maximum length of an ICMP error, in bytes.
pub(super) const LONGEST_ERROR: usize = 576;

pub(super) const TIME_EXCEEDED: (u8, u8) = (11, 0);
pub(super) const TOO_BIG: (u8, u8) = (3, 4);
pub(super) const PROHIBITED: (u8, u8) = (3, 13);
pub(super) const PORT_UNREACHABLE: (u8, u8) = (3, 3);
pub(super) const ERRORS: [(u8, u8); 6] = [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)];
/// Source quench, redirect, router advertisement, information and address mask request, and an
/// unassigned type.
pub(super) const NEVER: [(u8, u8); 6] = [(4, 0), (5, 1), (9, 0), (15, 0), (17, 0), (200, 0)];
/// Each query and its reply: echo and timestamp.
pub(super) const QUERIES: [[u8; 2]; 2] = [[8, 0], [13, 14]];

pub(super) fn client(a: u8, b: u8) -> IpAddr {
    IpAddr::from([10, 8, a, b])
}

pub(super) fn neighbour(n: u8) -> IpAddr {
    IpAddr::from([192, 168, 77, n])
}

/// Fragments a datagram into parts of at most `step` bytes.
pub(super) fn in_fragments(datagram: &[u8], id: u16, step: u16) -> Vec<Vec<u8>> {
    fragments::fragments_of(datagram, id, IP as u16 + step)
}
