//! Checks whether another program of this machine has the DNS port at the tunnel addresses. It opens no
//! socket.

use super::{Check, Subject, ok, warn};
use crate::config::{Port, Transport};
use crate::host::listening::{Listener, listeners};
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

pub(super) const PORT: u16 = 53;
const NAME: &str = "dns-port";
/// The name of the endpoint's process, whose sockets are not in its way.
const OWN: &str = "vcgate";

/// Checks the DNS port, if the endpoint answers DNS.
pub(super) fn checks(subject: &Subject) -> Option<Check> {
    let addresses = subject.dns.as_deref()?;
    let occupies = |listener: &Listener| {
        let address = listener.address;
        address.is_some_and(|ip| ip.is_unspecified() || addresses.contains(&ip))
    };
    let protocols = [Transport::Udp, Transport::Tcp].into_iter();
    let ports = protocols.map(|proto| Port {
        proto,
        number: PORT,
    });
    let all = ports.flat_map(listeners).filter(occupies);
    let holders = all.map(|listener| (listener.address, holder(listener.inode)));
    let others = holders.filter(|(_, holder)| holder.as_deref() != Some(OWN));
    Some(verdict(others.collect()))
}

/// Reports the programs that have the port, each with its address.
fn verdict(others: BTreeSet<(Option<IpAddr>, Option<String>)>) -> Check {
    let Some((address, program)) = others.into_iter().next() else {
        return ok(
            NAME,
            "no other program has the DNS port at the tunnel address",
        );
    };
    let program = match program {
        Some(program) => format!("the program {program:?}"),
        None => "another program".to_owned(),
    };
    let at = match address {
        Some(address) if !address.is_unspecified() => address.to_string(),
        _ => "all addresses".to_owned(),
    };
    warn(
        NAME,
        format!("{program} has port {PORT} of {at}: vcgate cannot answer DNS questions of clients"),
        "let it listen on addresses of the LAN and of loopback only; to let clients use it, set \
         enabled = false under [dns], and services = [\"53\"] under [interface]",
    )
}

/// Returns the name of the process that has a socket; `None` if it cannot be read.
fn holder(inode: u64) -> Option<String> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut holders = processes.filter(|process| {
        let open = fs::read_dir(process.path().join("fd"));
        let mut files = open.into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*link))
    });
    let name = fs::read_to_string(holders.next()?.path().join("comm"));
    name.ok().map(|name| name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_process_of_a_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = link
            .to_str()
            .unwrap()
            .trim_matches(|c: char| !c.is_ascii_digit());
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            holder(inode.parse().unwrap()).as_deref(),
            Some(own.trim_end())
        );
        assert_eq!(holder(u64::MAX), None);
    }

    #[test]
    fn a_program_that_has_the_port_is_named() {
        let meaning = |address: [u8; 4], program: Option<&str>| {
            let one = (Some(address.into()), program.map(str::to_owned));
            verdict([one].into()).meaning
        };
        assert_eq!(
            meaning([0; 4], Some("dnsmasq")),
            "the program \"dnsmasq\" has port 53 of all addresses: vcgate cannot answer DNS \
             questions of clients"
        );
        let at_tunnel = meaning([10, 8, 0, 1], None);
        assert!(at_tunnel.starts_with("another program has port 53 of 10.8.0.1: "));
        assert!(verdict(BTreeSet::new()).remedy.is_none());
    }
}
