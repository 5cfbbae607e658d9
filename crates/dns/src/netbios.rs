//! The lookup of NetBIOS names: by broadcast on the LAN, as a B node does (RFC 1002 section 5.1.1), or
//! from WINS servers, as a P node does (section 5.1.2). The answers of the LAN are not authentic: any
//! host there can claim a name, as for the hosts of the LAN themselves.

use crate::nbns::{self, NetbiosName, Suffix};
use crate::settings::Netbios;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

/// Number of queries and the time between them (section 6: BCAST_REQ_RETRY_COUNT and _TIMEOUT).
const BROADCASTS: usize = 3;
const BROADCAST_INTERVAL: Duration = Duration::from_millis(250);
/// The same for name servers, less patient than UCAST_REQ_RETRY_TIMEOUT: clients wait a few seconds.
const WINS_QUERIES: usize = 2;
const WINS_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of names that are looked up at the same time.
const MAX_LOOKUPS: usize = 16;
/// Maximum number of names whose result is remembered.
const MAX_REMEMBERED: usize = 1024;
/// Time for which a name that was found is used.
pub(crate) const FOUND_TIME: Duration = Duration::from_secs(60);
/// Time for which a name that was not found is not looked up again.
const MISSING_TIME: Duration = Duration::from_secs(10);
/// Maximum size of an answer in bytes (section 4.4.1).
const MAX_ANSWER: usize = 576;

/// The names of the LAN.
#[derive(Debug)]
pub(crate) struct Lan {
    settings: Netbios,
    lookups: Semaphore,
    /// Results by name in lower case, and the time until which they are used.
    remembered: Mutex<HashMap<String, (Instant, Vec<Ipv4Addr>)>>,
}

impl Lan {
    pub(crate) fn new(settings: Netbios) -> Self {
        Self {
            settings,
            lookups: Semaphore::new(MAX_LOOKUPS),
            remembered: Mutex::default(),
        }
    }

    /// Returns the result of an earlier lookup.
    pub(crate) fn remembered(&self, label: &str, now: Instant) -> Option<Vec<Ipv4Addr>> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        let (until, addresses) = remembered.get(&label.to_ascii_lowercase())?;
        (now < *until).then(|| addresses.clone())
    }

    /// Looks up the name of a host; returns no address if no host has it. `None` if it could not be
    /// looked up.
    pub(crate) async fn look_up(&self, label: &str) -> Option<Vec<Ipv4Addr>> {
        let suffixes = [Suffix::FileServer, Suffix::Workstation];
        let names = suffixes.map(|suffix| NetbiosName::new(label, suffix));
        let names: Vec<NetbiosName> = names.into_iter().flatten().collect();
        if names.is_empty() {
            return Some(Vec::new());
        }
        let _permit = self.lookups.try_acquire().ok()?;
        match self.ask(&names).await {
            Ok(addresses) => {
                self.remember(label, &addresses, Instant::now());
                Some(addresses)
            }
            Err(error) => {
                tracing::debug!(label, %error, "cannot look up a NetBIOS name");
                None
            }
        }
    }

    fn remember(&self, label: &str, addresses: &[Ipv4Addr], now: Instant) {
        let time = match addresses.is_empty() {
            true => MISSING_TIME,
            false => FOUND_TIME,
        };
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, (until, _)| now < *until);
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(label.to_ascii_lowercase(), (now + time, addresses.to_vec()));
        }
    }

    /// Sends queries until a host answers. Each lookup has a port and identifiers of its own.
    async fn ask(&self, names: &[NetbiosName]) -> io::Result<Vec<Ipv4Addr>> {
        let broadcast = self.settings.wins.is_empty();
        let (servers, tries, interval) = match broadcast {
            true => (self.broadcasts(), BROADCASTS, BROADCAST_INTERVAL),
            false => (self.settings.wins.clone(), WINS_QUERIES, WINS_INTERVAL),
        };
        let socket = self.socket(broadcast)?;
        let queries: Vec<(u16, &NetbiosName)> =
            names.iter().map(|name| (rand::random(), name)).collect();
        // Negative answers of name servers that are still due, for each name.
        let mut open = servers.len() * names.len();
        for _ in 0..tries {
            for server in &servers {
                for (id, name) in &queries {
                    let to = SocketAddr::from((*server, nbns::PORT));
                    socket.send_to(&name.query(*id, broadcast), to).await?;
                }
            }
            let deadline = tokio::time::Instant::now() + interval;
            let mut buffer = [0; MAX_ANSWER];
            while let Ok(received) = timeout_at(deadline, socket.recv_from(&mut buffer)).await {
                // An ICMP error about a query is an error here.
                let Ok((len, from)) = received else { break };
                let IpAddr::V4(from_ip) = from.ip() else {
                    continue;
                };
                if from.port() != nbns::PORT || !self.trusts(from_ip) {
                    continue;
                }
                let answer = { queries.iter() }
                    .find_map(|(id, name)| name.answer(*id, buffer.get(..len).unwrap_or(&[])));
                let Some(addresses) = answer else { continue };
                let addresses = self.usable(addresses);
                if !addresses.is_empty() {
                    return Ok(addresses);
                }
                open = open.saturating_sub(1);
                if !broadcast && open == 0 {
                    return Ok(Vec::new());
                }
            }
        }
        Ok(Vec::new())
    }

    /// The broadcast addresses of the LAN. A network of one or two addresses has none.
    fn broadcasts(&self) -> Vec<Ipv4Addr> {
        let networks = self.settings.networks.iter();
        let broadcasts = networks
            .filter(|net| net.prefix_len() < 31)
            .map(|net| net.broadcast());
        let ipv4 = broadcasts.filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        ipv4.collect()
    }

    /// Whether an answer from this address counts.
    fn trusts(&self, from: Ipv4Addr) -> bool {
        match self.settings.wins.is_empty() {
            true => self.is_on_lan(from),
            false => self.settings.wins.contains(&from),
        }
    }

    /// Returns the addresses that clients can use. A host on several networks answers a broadcast with
    /// all its addresses.
    fn usable(&self, mut addresses: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
        if self.settings.wins.is_empty() {
            addresses.retain(|address| self.is_on_lan(*address));
        }
        addresses
    }

    fn is_on_lan(&self, address: Ipv4Addr) -> bool {
        let networks = &self.settings.networks;
        networks
            .iter()
            .any(|net| net.contains(&IpAddr::V4(address)))
    }

    fn socket(&self, broadcast: bool) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if broadcast {
            socket.set_broadcast(true)?;
            // Linux before 5.7 allows it to privileged processes only; the route leads there anyway.
            let _ = socket.bind_device(Some(self.settings.interface.as_bytes()));
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        UdpSocket::from_std(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan(networks: &[&str], wins: &[Ipv4Addr]) -> Lan {
        Lan::new(Netbios {
            interface: "lo".into(),
            networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
            wins: wins.to_vec(),
        })
    }

    #[test]
    fn only_the_lan_answers_broadcasts_and_only_with_its_addresses() {
        let lan = lan(&["192.168.77.0/24", "fd00:77::/64", "10.0.0.1/32"], &[]);
        assert_eq!(lan.broadcasts(), [Ipv4Addr::new(192, 168, 77, 255)]);
        assert!(lan.trusts(Ipv4Addr::new(192, 168, 77, 10)));
        assert!(!lan.trusts(Ipv4Addr::new(192, 168, 78, 10)));
        let own = Ipv4Addr::new(192, 168, 77, 10);
        assert_eq!(lan.usable(vec![Ipv4Addr::new(192, 168, 56, 1), own]), [own]);
    }

    #[test]
    fn a_name_server_may_know_hosts_elsewhere_and_no_other_host_answers() {
        let server = Ipv4Addr::new(192, 168, 77, 10);
        let lan = lan(&["192.168.77.0/24"], &[server]);
        assert!(lan.trusts(server) && !lan.trusts(Ipv4Addr::new(192, 168, 77, 11)));
        let far = vec![Ipv4Addr::new(10, 1, 0, 5)];
        assert_eq!(lan.usable(far.clone()), far);
    }

    #[test]
    fn results_are_remembered_for_a_while_and_their_number_is_bounded() {
        let (lan, now) = (lan(&[], &[]), Instant::now());
        let host = [Ipv4Addr::new(192, 168, 77, 10)];
        lan.remember("FileSrv", &host, now);
        lan.remember("nobody", &[], now);
        assert_eq!(lan.remembered("filesrv", now).unwrap(), host);
        assert_eq!(lan.remembered("filesrv", now + FOUND_TIME), None);
        assert_eq!(lan.remembered("nobody", now), Some(Vec::new()));
        assert_eq!(lan.remembered("nobody", now + MISSING_TIME), None);
        for number in 0..2 * MAX_REMEMBERED {
            lan.remember(&number.to_string(), &[], now);
        }
        assert_eq!(lan.remembered.lock().unwrap().len(), MAX_REMEMBERED);
        lan.remember("late", &host, now + MISSING_TIME);
        assert!(lan.remembered("late", now + MISSING_TIME).is_some());
    }
}
