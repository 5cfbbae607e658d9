//! Finds out whether a program on this machine listens on a port of the LAN, which a forward would take
//! over.

use crate::config::{Port, Transport};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket that waits for packets or connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Its address; `None` is one that cannot be read.
    pub address: Option<IpAddr>,
    /// The number by which a process refers to it.
    pub inode: u64,
}

/// Whether a program on this machine listens on the port, on an address other than loopback and those
/// of the tunnel.
pub(super) fn listens(port: Port, tunnel: &[IpAddr]) -> bool {
    let on_lan = |listener: &Listener| {
        let address = listener.address;
        address.is_none_or(|address| !address.is_loopback() && !tunnel.contains(&address))
    };
    listeners(port).iter().any(on_lan)
}

/// Returns the sockets of this machine that listen on a port.
pub(crate) fn listeners(Port { proto, number }: Port) -> Vec<Listener> {
    let tables = ["", "6"].map(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{proto}{family}"));
        of_table(&table.unwrap_or_default(), proto, number)
    });
    tables.concat()
}

/// Returns the listeners of a table of sockets (proc_net_tcp.rst) on this port.
fn of_table(table: &str, proto: Transport, number: u16) -> Vec<Listener> {
    // TCP_LISTEN, and TCP_CLOSE for an unconnected UDP socket.
    let waiting = match proto {
        Transport::Tcp => "0A",
        Transport::Udp => "07",
    };
    let port = format!("{number:04X}");
    let listener = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (address, at) = fields.get(1)?.split_once(':')?;
        let waits = at == port && *fields.get(3)? == waiting;
        waits.then(|| Listener {
            address: parse(address),
            inode: fields
                .get(9)
                .and_then(|inode| inode.parse().ok())
                .unwrap_or(0),
        })
    };
    table.lines().skip(1).filter_map(listener).collect()
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
    fn listeners_are_read_from_the_tables_of_sockets() {
        let found = |table: &str, proto, number| {
            let listeners = of_table(table, proto, number).into_iter();
            let found = listeners.map(|listener| (listener.address.unwrap(), listener.inode));
            found.collect::<Vec<_>>()
        };
        let tcp = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   2: 0A4DA8C0:BEEF 014DA8C0:01BD 01 00000000:00000000 00:00000000 00000000     0        0 4712
";
        let any = IpAddr::from([0; 4]);
        assert_eq!(found(tcp, Transport::Tcp, 22), [(any, 4711)]);
        assert_eq!(
            found(tcp, Transport::Tcp, 0x1F90),
            [([127, 0, 0, 1].into(), 0)]
        );
        assert_eq!(found(tcp, Transport::Tcp, 0xBEEF), [], "a connection");
        assert_eq!(found(tcp, Transport::Tcp, 80), []);
        let udp6 = "\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07
   1: 00000000000000000000000001000000:0044 00000000000000000000000000000000:0000 07
";
        let any = IpAddr::from([0; 16]);
        assert_eq!(found(udp6, Transport::Udp, 53), [(any, 0)]);
        assert_eq!(
            found(udp6, Transport::Udp, 68),
            [(Ipv6Addr::LOCALHOST.into(), 0)]
        );
        assert_eq!(found("", Transport::Udp, 53), []);
        assert_eq!(found("x\ny", Transport::Tcp, 22), []);
    }

    #[test]
    fn listeners_of_this_test_are_found() {
        for (address, is_on_lan) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let bound = listener.local_addr().unwrap();
            let (proto, number) = (Transport::Tcp, bound.port());
            let port = Port { proto, number };
            assert_eq!(listens(port, &[]), is_on_lan);
            assert!(!listens(port, &[bound.ip()]), "in the tunnel only");
            let found = listeners(port);
            assert!(
                found.iter().any(|found| found.address == Some(bound.ip())),
                "{found:?}"
            );
        }
    }
}
