//! The address families of generic tests: their addresses, lengths and ICMP types.

use super::{v4, v6};
use std::net::IpAddr;

/// An address family. A test that is generic over it runs once for each; see [`both_families!`].
pub(crate) trait AddressFamily {
    const LAN: IpAddr;
    const GATEWAY: IpAddr;
    const ALICE: IpAddr;
    const BOB: IpAddr;
    const SERVER: IpAddr;
    const OTHER: IpAddr;

    /// The length of the IP header, in bytes.
    const IP: usize;
    /// Maximum length of an ICMP error, in bytes.
    const LONGEST_ERROR: usize;

    /// ICMP errors by type and code.
    const TIME_EXCEEDED: (u8, u8);
    const TOO_BIG: (u8, u8);
    const PROHIBITED: (u8, u8);
    const PORT_UNREACHABLE: (u8, u8);
    const ERRORS: &'static [(u8, u8)];
    /// ICMP messages that are never translated, by type and code.
    const NEVER: &'static [(u8, u8)];
    /// The types of each query and its reply.
    const QUERIES: &'static [[u8; 2]];

    /// Returns the inner address of a client by its last two numbers.
    fn client(a: u8, b: u8) -> IpAddr;
    /// Returns the address of a host of the LAN by its last number.
    fn neighbour(n: u8) -> IpAddr;
    /// Fragments a datagram into parts of at most `step` bytes.
    fn in_fragments(datagram: &[u8], id: u16, step: u16) -> Vec<Vec<u8>>;
}

macro_rules! address_family {
    ($(#[$doc:meta])* $name:ident, $module:ident) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl AddressFamily for $name {
            const LAN: IpAddr = $module::LAN;
            const GATEWAY: IpAddr = $module::GATEWAY;
            const ALICE: IpAddr = $module::ALICE;
            const BOB: IpAddr = $module::BOB;
            const SERVER: IpAddr = $module::SERVER;
            const OTHER: IpAddr = $module::OTHER;
            const IP: usize = $module::IP;
            const LONGEST_ERROR: usize = $module::LONGEST_ERROR;
            const TIME_EXCEEDED: (u8, u8) = $module::TIME_EXCEEDED;
            const TOO_BIG: (u8, u8) = $module::TOO_BIG;
            const PROHIBITED: (u8, u8) = $module::PROHIBITED;
            const PORT_UNREACHABLE: (u8, u8) = $module::PORT_UNREACHABLE;
            const ERRORS: &'static [(u8, u8)] = &$module::ERRORS;
            const NEVER: &'static [(u8, u8)] = &$module::NEVER;
            const QUERIES: &'static [[u8; 2]] = &$module::QUERIES;

            fn client(a: u8, b: u8) -> IpAddr {
                $module::client(a, b)
            }

            fn neighbour(n: u8) -> IpAddr {
                $module::neighbour(n)
            }

            fn in_fragments(datagram: &[u8], id: u16, step: u16) -> Vec<Vec<u8>> {
                $module::in_fragments(datagram, id, step)
            }
        }
    };
}

address_family!(
    /// IPv4.
    V4,
    v4
);
address_family!(
    /// IPv6.
    V6,
    v6
);

/// Defines the tests of both families from functions that are generic over [`AddressFamily`].
macro_rules! both_families {
    ($($test:ident),+ $(,)?) => {
        mod v4 {
            $(
                #[test]
                fn $test() {
                    super::$test::<super::V4>();
                }
            )+
        }

        mod v6 {
            $(
                #[test]
                fn $test() {
                    super::$test::<super::V6>();
                }
            )+
        }
    };
}
pub(super) use both_families;
