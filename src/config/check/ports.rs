//! Checks that concern the ports of clients: their number per shard, and the port log.

use super::super::problem::{Collector, Diagnostic};
use super::ParsedFile;
use crate::config::LanAddress;
use toml::Spanned;
use vcgate_core::nat;

impl ParsedFile {
    /// Warns if the number of shards leaves a client fewer ports than it may have.
    pub(super) fn check_shards(&self, problems: &mut Collector<'_>) {
        let Some(shards) = &self.shards else {
            return; // the default leaves enough ports
        };
        let (place, shards) = (shards.span().start, *shards.get_ref());
        let (wanted, most) = (self.limits.ports, nat::max_shards(self.limits.ports));
        let share = nat::max_ports_per_peer(shards);
        if share >= wanted {
            return;
        }
        let what = format!(
            "interface.shards: with {shards} a client has {share} ports, not the {wanted} of nat.limits.ports"
        );
        let remedy = match shards > most {
            true => format!("write {most}, or leave it out"),
            false => format!("set nat.limits.ports to {share}"),
        };
        problems.warning(place, Diagnostic::new(what, remedy));
    }

    /// Warns of a port log with masquerading: the kernel may replace a logged port that is in use.
    pub(super) fn check_port_log(&self, problems: &mut Collector<'_>) {
        let Some(place) = self.log_file else {
            return;
        };
        let own = self.lan_address.as_ref().map(Spanned::get_ref);
        let own6 = self.lan_address6.as_ref().map(Spanned::get_ref);
        let key = if own.and_then(LanAddress::fixed).is_none() {
            "lan.address"
        } else if own6.is_some_and(|address| address.fixed().is_none()) {
            "lan.address6"
        } else {
            return;
        };
        let what = format!(
            "nat.log_file: with {key} = \"auto\" the kernel may use other ports than those \
             logged, and \"vcgate who\" name the wrong client"
        );
        let remedy = format!("set {key} to a free address of the LAN");
        problems.warning(place, Diagnostic::new(what, remedy));
    }
}
