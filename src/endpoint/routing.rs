//! Routes, egress and policy that follow from the configuration, the peers and the host. It is
//! called by `reload` and `reconcile` and calls neither.

use super::active_config::ActiveConfig;
use super::assemble::{adjustable_nat, destinations, global_policy};
use super::peer_directory::PeerDirectory;
use super::state::EndpointHandle;
use crate::host::HostError;
use ipnet::IpNet;

impl EndpointHandle {
    /// Updates the routes to networks of clients after a change of peers, and warns of networks of
    /// the LAN that a peer's prefix covers.
    pub(super) async fn update_routes(&self, active: &mut ActiveConfig) {
        let peers = self.shards.ask_one(|engine, _| {
            let peers = engine.tunnel().peers();
            peers
                .map(|peer| (peer.name.to_owned(), peer.allowed_ips.to_vec()))
                .collect::<Vec<_>>()
        });
        let Some(peers) = peers.await else { return };
        let prefixes = peers.iter().map(|(name, nets)| (&**name, &**nets));
        active.warn_of_covered_networks(prefixes);
        let nets = peers.into_iter().flat_map(|(_, nets)| nets);
        active.set_routes(nets).await;
    }

    /// Applies the policy for all clients, the NAT's adjustable settings and the rules of peers.
    pub(super) async fn set_global_policy(&self, active: &ActiveConfig) {
        let config = &active.config;
        let (policy, nat) = (global_policy(active), adjustable_nat(config));
        let directory =
            PeerDirectory::new(active, config.peers.iter().map(|peer| &peer.public_key));
        self.shards
            .ask_all(move |engine, _| {
                engine.set_global_policy(policy);
                engine.set_nat(nat);
                let peers = engine.tunnel().peers();
                let peers: Vec<_> = peers.map(|peer| (peer.id, peer.public_key)).collect();
                for (id, key) in peers {
                    let rules = directory.of(&key.into()).rules;
                    engine.set_rules(id, rules);
                }
            })
            .await;
        active.warn_without_networks();
        self.names.update(active).await;
    }

    /// Updates the masquerading of clients' packets that leave on other interfaces. Returns the
    /// rules that were missing.
    pub(super) async fn update_egress(
        &self,
        active: &mut ActiveConfig,
    ) -> Vec<Result<String, HostError>> {
        let mut destinations = destinations(&active.config);
        destinations.extend(&active.on_lan);
        match active.egress.follow(&destinations).await {
            Ok(missing) => missing.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// Reads the broadcast addresses of the host. Returns whether they changed.
    pub(super) async fn update_broadcasts(&self, active: &mut ActiveConfig) -> bool {
        match self.reconciler.broadcasts().await {
            Ok(broadcasts) if broadcasts != active.broadcasts => {
                active.broadcasts = broadcasts;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot read the broadcast addresses of this machine; clients may reach new ones");
                false
            }
        }
    }

    /// Reads the networks of the LAN interface. Returns whether the networks that clients may reach
    /// changed.
    pub(super) async fn update_lan_networks(&self, active: &mut ActiveConfig) -> bool {
        let networks = self.reconciler.lan_networks().await;
        // An interface without networks is down or changes its address: clients keep the old ones.
        if networks.is_empty() || networks == active.on_lan {
            return false;
        }
        active.on_lan = networks;
        let is_default = active.config.lan.networks.is_empty();
        if is_default {
            let networks = active.on_lan.iter().map(IpNet::to_string);
            let networks = networks.collect::<Vec<_>>().join(", ");
            tracing::info!(
                networks,
                "the LAN interface has other networks, which clients reach now"
            );
        }
        is_default
    }
}
