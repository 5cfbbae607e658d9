//! Translates clients' packets that leave by an interface other than the LAN's, such as those of a
//! full tunnel whose default route uses another card. The LAN address is invalid there, so the
//! kernel replaces it with the machine's own address and forwards the answers.
//!
//! It changes nothing on the LAN interface, and nothing at all while all destinations are reached
//! over the LAN interface.

use super::nft::{self, Family, Table};
use super::undo_log::{Change, UndoLog};
use super::{HostError, Netlink, sysctl};
use ipnet::IpNet;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use tracing::info;

/// Interfaces other than the LAN's by which clients' packets leave.
#[derive(Debug, Clone)]
pub struct Egress {
    pub(super) netlink: Netlink,
    pub(super) undo_log: Rc<RefCell<UndoLog>>,
    pub(super) tun: String,
    pub(super) lan: String,
    /// Addresses of the clients on the TUN device, each with the table that translates it. Without a
    /// table, a masquerade rule translates it on every interface.
    pub(super) sources: Vec<(Vec<IpAddr>, Option<Table>)>,
    /// Further IPv4 addresses of clients.
    pub(super) further: Vec<IpAddr>,
    /// The sources of each table that was made, by its name.
    pub(super) translated: BTreeMap<String, Vec<IpAddr>>,
    /// Names of the interfaces found so far.
    pub(super) known: BTreeSet<String>,
}

impl Egress {
    /// Replaces the further IPv4 addresses of clients, and returns whether they are others. Tables have
    /// them after the next [`follow`](Self::follow).
    pub fn set_further(&mut self, further: Vec<IpAddr>) -> bool {
        let changed = self.further != further;
        self.further = further;
        changed
    }

    /// Sources with their tables. A table that translates the first IPv4 address translates the further
    /// ones too; a masquerade rule of the first one does not, so they have a table then.
    fn all_sources(&self) -> Vec<(Vec<IpAddr>, Option<Table>)> {
        let mut all = self.sources.clone();
        let is_ipv4 = |sources: &[IpAddr]| sources.iter().any(IpAddr::is_ipv4);
        let first = all
            .iter_mut()
            .find(|(sources, table)| is_ipv4(sources) && table.is_some());
        match first {
            Some((sources, _)) => sources.extend(&self.further),
            None if self.further.is_empty() => {}
            None => {
                let table = Table::of(&format!("{}_further", self.tun), Family::Ip);
                all.push((self.further.clone(), Some(table)));
            }
        }
        all
    }

    /// Sets up translation and forwarding on every interface by which packets to `destinations` leave
    /// now. Returns the items that were missing on interfaces that were known already.
    ///
    /// # Errors
    /// Fails if a rule or a setting cannot be made.
    pub async fn follow(&mut self, destinations: &[IpNet]) -> Result<Vec<String>, HostError> {
        let routes = self.netlink.main_routes().await?;
        let interfaces = self.netlink.interfaces().await?;
        let names: BTreeMap<u32, &str> = interfaces.iter().map(|i| (i.index, &*i.name)).collect();
        let mut missing = Vec::new();
        for (sources, table) in self.all_sources() {
            let is_ipv4 = sources.iter().any(IpAddr::is_ipv4);
            let same_family = |net: &&IpNet| net.addr().is_ipv4() == is_ipv4;
            let destinations = destinations.iter().filter(same_family);
            let used: BTreeSet<u32> = destinations.flat_map(|net| outputs(&routes, net)).collect();
            let used = used.iter().filter_map(|index| names.get(index).copied());
            let used = used.filter(|name| *name != "lo" && *name != self.tun && *name != self.lan);
            let used: Vec<&str> = used.collect();
            if let (Some(table), false) = (&table, used.is_empty()) {
                let is_new = used.iter().all(|name| !self.known.contains(*name));
                if self.translate(&sources, table).await? && !is_new {
                    missing.push(format!("the nftables table {table}"));
                }
            }
            for name in used {
                let path = sysctl::ipv4(name, "forwarding");
                let was_missing = is_ipv4 && self.set(&path, "1")?;
                if self.known.insert(name.to_owned()) {
                    info!(
                        interface = name,
                        "clients reach some destinations over an interface other than the LAN's and have this \
                         machine's address there"
                    );
                } else if was_missing {
                    missing.push(format!("{}=1", sysctl::dotted(&path)));
                }
            }
        }
        Ok(missing)
    }

    /// Creates the table if it is missing or has other sources, and returns whether it was missing.
    async fn translate(&mut self, sources: &[IpAddr], table: &Table) -> Result<bool, HostError> {
        let is_missing = !nft::has_rules(table, false).await;
        let is_same = { self.translated.get(table.name()) }.is_some_and(|made| made == sources);
        if is_same && !is_missing {
            return Ok(false);
        }
        nft::version().await?;
        let change = Change::Table(table.clone());
        self.undo_log.borrow_mut().record_once(change)?;
        let script = nft::masquerade_script(table, sources, &[&self.tun, &self.lan]);
        nft::run(&script).await?;
        self.translated
            .insert(table.name().to_owned(), sources.to_vec());
        Ok(is_missing)
    }

    /// Sets a value, and returns whether it was different.
    fn set(&self, path: &str, value: &str) -> Result<bool, HostError> {
        let now = sysctl::read(path).unwrap_or_default();
        if now == value {
            return Ok(false);
        }
        let mut undo_log = self.undo_log.borrow_mut();
        undo_log.record_setting(path, &now, value)?;
        sysctl::write(path, value).map(|()| true)
    }
}

/// Interfaces by which packets to a network leave: that of the longest prefix that contains it, and
/// those of all routes to parts of it.
fn outputs(routes: &[(IpNet, u32)], net: &IpNet) -> BTreeSet<u32> {
    // Of several routes to one destination the first is preferred.
    let mut preferred: BTreeMap<IpNet, u32> = BTreeMap::new();
    for (to, index) in routes {
        preferred.entry(to.trunc()).or_insert(*index);
    }
    let around = preferred.iter().filter(|(to, _)| to.contains(net));
    let longest = around.max_by_key(|(to, _)| to.prefix_len());
    let inside = preferred.iter().filter(|(to, _)| net.contains(*to));
    longest
        .into_iter()
        .chain(inside)
        .map(|(_, index)| *index)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_by_the_longest_prefix_and_by_all_inside() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let routes = [
            (net("0.0.0.0/0"), 1),
            (net("0.0.0.0/0"), 2),
            (net("192.168.77.0/24"), 2),
            (net("10.1.0.0/16"), 3),
            (net("fd00:77::/64"), 2),
        ];
        for (to, expected) in [
            ("192.168.77.0/24", &[2][..]),
            ("192.168.77.10/32", &[2]),
            ("192.168.0.0/16", &[1, 2]),
            ("0.0.0.0/0", &[1, 2, 3]),
            ("10.0.0.0/8", &[1, 3]),
            ("::/0", &[2]),
            ("fd00:78::/64", &[]),
        ] {
            let found: Vec<_> = outputs(&routes, &net(to)).into_iter().collect();
            assert_eq!(found, expected, "{to}");
        }
    }
}
