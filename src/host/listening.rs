//! Finds out whether a program on this machine listens on a port of the LAN, which a forward would take
//! over.

use crate::config::{Port, Transport};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a program on this machine listens on the port, on an address other than loopback and those
/// of the tunnel.
pub(super) fn listens(Port { proto, number }: Port, tunnel: &[IpAddr]) -> bool {
    ["", "6"].into_iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{proto}{family}"));
        has(&table.unwrap_or_default(), proto, number, tunnel)
    })
}

/// Whether a table of sockets (proc_net_tcp.rst) contains a listener on this port.
fn has(table: &str, proto: Transport, number: u16, tunnel: &[IpAddr]) -> bool {
    // TCP_LISTEN, and TCP_CLOSE for an unconnected UDP socket.
    let waiting = match proto {
        Transport::Tcp => "0A",
        Transport::Udp => "07",
    };
    let port = format!("{number:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(local), _, Some(state)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        let at = local.split_once(':');
        let on_lan = |address: &str| {
            let parsed = parse(address);
            parsed.is_none_or(|address| !address.is_loopback() && !tunnel.contains(&address))
        };
        state == waiting && at.is_some_and(|(address, at)| at == port && on_lan(address))
    })
}

/// Reads an address of the table. The kernel prints 32-bit words in host byte order.
fn parse(digits: &str) -> Option<IpAddr> {
    let words = digits.as_bytes().chunks_exact(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_other_than_loopback_are_found() {
        let tcp = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   2: 0A4DA8C0:BEEF 014DA8C0:01BD 01 00000000:00000000 00:00000000 00000000     0
";
        let found = |number| has(tcp, Transport::Tcp, number, &[]);
        assert!(found(22));
        assert!(!found(0x1F90), "on loopback only");
        assert!(!found(0xBEEF), "a connection");
        assert!(!found(80));
        let udp6 = "\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07
   1: 00000000000000000000000001000000:0044 00000000000000000000000000000000:0000 07
";
        assert!(has(udp6, Transport::Udp, 53, &[]));
        assert!(!has(udp6, Transport::Udp, 68, &[]), "on loopback only");
        assert!(!has("", Transport::Udp, 53, &[]));
        assert!(!has("x\ny", Transport::Tcp, 22, &[]));
        let own =
            "\n   0: 0100080A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0\n";
        let tunnel = [IpAddr::from([10, 8, 0, 1])];
        assert!(has(own, Transport::Udp, 53, &[]));
        assert!(!has(own, Transport::Udp, 53, &tunnel), "in the tunnel only");
    }

    #[test]
    fn a_listener_of_this_test_is_found() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let proto = Transport::Tcp;
        assert!(listens(Port { proto, number }, &[]));
    }
}
