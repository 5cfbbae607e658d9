//! What the threads of the data plane leave each client: they share the ports out among them.

use super::super::problem::{Collector, Diagnostic};
use super::RuntimeInfo;
use vcgate_core::nat;

impl RuntimeInfo {
    pub(super) fn check_shards(&self, problems: &mut Collector<'_>) {
        let Some(shards) = &self.shards else {
            return; // as many as there may be
        };
        let (place, shards) = (shards.span().start, *shards.get_ref());
        let (wanted, most) = (self.limits.ports, nat::max_shards(self.limits.blocks()));
        let share = nat::max_blocks_per_peer(shards) * nat::BLOCK_SIZE;
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
}
