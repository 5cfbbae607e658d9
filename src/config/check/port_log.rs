//! Whether the port log can say who had a port that the LAN saw.

use super::super::problem::{Collector, Diagnostic};
use super::RuntimeInfo;
use crate::config::LanAddress;
use toml::Spanned;

impl RuntimeInfo {
    /// Behind a masquerade the LAN sees the kernel's ports: those that are logged only where they
    /// are free.
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
