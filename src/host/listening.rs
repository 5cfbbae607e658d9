//! Finds out whether a program on this machine listens on a port, which a forward would take over.

use crate::config::{Port, Transport};
use std::fs;

/// Whether a program on this machine listens on the port, on an address other than loopback.
pub(super) fn listens(Port { proto, number }: Port) -> bool {
    ["", "6"].into_iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{proto}{family}"));
        has(&table.unwrap_or_default(), proto, number)
    })
}

/// Whether a table of sockets (proc_net_tcp.rst) contains a listener on this port.
fn has(table: &str, proto: Transport, number: u16) -> bool {
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
        state == waiting && at.is_some_and(|(address, at)| at == port && !is_loopback(address))
    })
}

/// Whether an address of the table is loopback. The kernel prints 32-bit words in host byte order.
fn is_loopback(address: &str) -> bool {
    let number = |digits: &str| u32::from_str_radix(digits, 16).map(u32::to_ne_bytes);
    match address.len() {
        8 => number(address).is_ok_and(|bytes| bytes[0] == 127),
        _ => {
            let last = address.get(24..).map(number);
            address.starts_with("000000000000000000000000")
                && matches!(last, Some(Ok([0, 0, 0, 1])))
        }
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
        let found = |number| has(tcp, Transport::Tcp, number);
        assert!(found(22));
        assert!(!found(0x1F90), "on loopback only");
        assert!(!found(0xBEEF), "a connection");
        assert!(!found(80));
        let udp6 = "\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07
   1: 00000000000000000000000001000000:0044 00000000000000000000000000000000:0000 07
";
        assert!(has(udp6, Transport::Udp, 53));
        assert!(!has(udp6, Transport::Udp, 68), "on loopback only");
        assert!(!has("", Transport::Udp, 53));
        assert!(!has("x\ny", Transport::Tcp, 22));
    }

    #[test]
    fn a_listener_of_this_test_is_found() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let proto = Transport::Tcp;
        assert!(listens(Port { proto, number }));
    }
}
