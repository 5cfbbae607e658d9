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
    /// Names of the interfaces found so far.
    pub(super) known: BTreeSet<String>,
}

impl Egress {
    /// Adds further IPv4 addresses of clients. A table that translates the first one translates them
    /// too; a masquerade rule of the first one does not, so they are not translated then.
    pub(super) fn add_sources(&mut self, further: &[IpAddr], tun: &str) {
        let is_ipv4 = |sources: &[IpAddr]| sources.iter().any(IpAddr::is_ipv4);
        let mut all = self.sources.iter_mut();
        match all.find(|(sources, table)| is_ipv4(sources) && table.is_some()) {
            Some((sources, _)) => sources.extend(further),
            None => {
                let table = Table::of(&format!("{tun}_further"), Family::Ip);
                self.sources.push((further.to_vec(), Some(table)));
            }
        }
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
        for (sources, table) in self.sources.clone() {
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

    /// Creates the table if it is missing, and returns whether it was.
    async fn translate(&self, sources: &[IpAddr], table: &Table) -> Result<bool, HostError> {
        if nft::has_rules(table, false).await {
            return Ok(false);
        }
        nft::version().await?;
        let change = Change::Table(table.clone());
        self.undo_log.borrow_mut().record_once(change)?;
        let script = nft::masquerade_script(table, sources, &[&self.tun, &self.lan]);
        nft::run(&script).await.map(|()| true)
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
