//! Changes of peers, rules, LAN addresses and forwards of the running endpoint: a single one by a command, or all
//! differences of a configuration that is read again.
//!
//! Changes are made one after the other. Sessions, flows and counters of unchanged peers stay.

use super::active_config::ActiveConfig;
use super::assemble::{nat_forward, peer_settings};
use super::lan_addresses::refused;
use super::shards::refusal;
use super::state::EndpointHandle;
use crate::config::{self, Change, Config, Forward, Lifecycle, Peer, Problems};
use crate::control::caller::Caller;
use crate::control::endpoint::Refusal;
use crate::control::reload::Reload;
use crate::host::DnatRules;
use crate::keys::{PrivateKey, PublicKey};
use crate::logging::AUDIT;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::{Instant, SystemTime};
use tokio::signal::unix::Signal;
use vcgate_core::engine::{Engine, Rates, Rule};
use vcgate_core::nat::LanAddressError;
use vcgate_core::tunnel::{PeerError, PeerSettings};

/// A change of a peer for the engine.
#[derive(Clone)]
enum PeerStep {
    Remove(PublicKey),
    /// Changes a peer, or adds it, with the LAN address that only it uses.
    Set(PeerSettings, Vec<Rule>, Rates, Option<Ipv4Addr>),
}

/// The reason why the engine refuses a change of a peer.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    LanAddress(#[from] LanAddressError),
}

impl EndpointHandle {
    /// Reads the configuration again at each signal.
    pub(super) async fn reload_at(&self, hangup: &mut Signal) -> Infallible {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the configuration again");
            Caller::internal("SIGHUP").run(self.read_again()).await;
        }
        std::future::pending().await
    }

    /// Reads the configuration file again and applies the differences.
    pub(super) async fn read_again(&self) -> Reload {
        let mut active = self.active.lock().await;
        // Another program may have renamed it, to rotate it.
        self.audit.reopen();
        let mut reload = Reload::of(&active.config.path);
        match config::load(&reload.file) {
            Ok(loaded) => {
                reload.problems.warnings = loaded.warnings;
                for (change, refused) in self.apply_config(&mut active, &loaded.config).await {
                    reload.note(&change, refused.map(|refusal| refusal.to_string()));
                }
            }
            Err(problems) => reload.problems = problems,
        }
        log(&reload);
        reload
    }

    async fn apply_config(
        &self,
        active: &mut ActiveConfig,
        new: &Config,
    ) -> Vec<(Change, Option<Refusal>)> {
        let changes = config::difference(&self.running_config(&active.config).await, new);
        let is_key = |change: &Change| matches!(change, Change::Key(_));
        let other_networks = self.update_lan_networks(active).await;
        if other_networks || changes.iter().any(is_key) {
            active.config.take_over(new);
            self.set_global_policy(active).await;
        }
        let made = self.make(active, changes).await;
        for error in self
            .update_egress(active)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(%error, "cannot reach all destinations of clients");
        }
        let named: HashSet<_> = new.peers.iter().map(|peer| peer.public_key).collect();
        active
            .config
            .peers
            .retain(|p| named.contains(&p.public_key));
        made
    }

    /// Makes one change.
    ///
    /// # Errors
    /// The reason for refusing the change.
    pub(super) async fn make_one(
        &self,
        active: &mut ActiveConfig,
        change: Change,
    ) -> Result<(), Refusal> {
        self.make_each(active, vec![change]).await
    }

    /// Makes changes that belong together.
    ///
    /// # Errors
    /// The reason for refusing the first that was refused.
    pub(super) async fn make_each(
        &self,
        active: &mut ActiveConfig,
        changes: Vec<Change>,
    ) -> Result<(), Refusal> {
        let made = self.make(active, changes).await;
        let mut report = Reload::of(&active.config.path);
        let mut result = Ok(());
        for (change, refused) in made {
            report.note(&change, refused.as_ref().map(ToString::to_string));
            result = result.and(refused.map_or(Ok(()), Err));
        }
        log_changes(&report);
        result
    }

    /// Makes changes of peers, LAN addresses and forwards. Returns each with the reason if it was
    /// refused.
    ///
    /// Forwards are closed before the addresses of which they are can leave, and opened when all
    /// addresses are there.
    async fn make(
        &self,
        active: &mut ActiveConfig,
        changes: Vec<Change>,
    ) -> Vec<(Change, Option<Refusal>)> {
        let unavailable = self.connect_addresses(active, &changes).await;
        let refusals: Vec<_> = { changes.iter() }
            .map(|change| refused(active, change, &changes, &unavailable))
            .collect();
        let mut made: Vec<_> = changes.into_iter().zip(refusals).collect();
        for (change, refusal) in made.iter_mut().filter(|(_, refusal)| refusal.is_none()) {
            if let Change::ForwardRemoved(forward) = change {
                *refusal = self.close_forward(*forward).await.err();
            }
        }
        let allowed = made.iter().filter(|(_, refusal)| refusal.is_none());
        let allowed: Vec<_> = allowed.map(|(change, _)| change.clone()).collect();
        self.release_addresses(active, &allowed).await;
        let steps = allowed.iter().filter_map(|c| change_of_peer(active, c));
        let mut steps = self.change_peers(steps.collect()).await.into_iter();
        for (change, refusal) in made.iter_mut().filter(|(_, refusal)| refusal.is_none()) {
            let result = match &*change {
                Change::PeerRemoved(_)
                | Change::PeerChanged(..)
                | Change::PeerAdded(_)
                | Change::PeerExpired(_) => match steps.next() {
                    Some(result) => result.map_err(super::shards::refusal),
                    None => Err(super::shards::refusal("the endpoint is stopping")),
                },
                Change::LanPool(pool) => self.set_pool(pool).await,
                Change::ForwardAdded(forward) => self.open_forward(*forward).await,
                Change::ForwardRemoved(_) | Change::Key(_) | Change::AtNextStart(_) => Ok(()),
            };
            let before = change.peer().and_then(|peer| active.known(peer));
            let refused = result.as_ref().err().map(ToString::to_string);
            self.audit.change(change, before, refused);
            if result.is_ok() {
                active.note(change);
            }
            *refusal = result.err();
        }
        self.update_addresses(active).await;
        self.update_routes(active).await;
        self.names.update(active).await;
        made
    }

    /// Opens a forward in all shards and on the host.
    async fn open_forward(&self, forward: Forward) -> Result<(), Refusal> {
        let added = self.shards.ask_all(move |engine, now| {
            let peer = engine.tunnel().route(forward.to.ip());
            let Some(peer) = peer else {
                return Err(format!("{} is not the address of a peer", forward.to.ip()));
            };
            let name = engine.tunnel().name(peer).unwrap_or_default().to_owned();
            let added = engine.add_forward(nat_forward(&forward), now);
            added.map(|()| name).map_err(|error| error.to_string())
        });
        let added: Result<Vec<_>, _> = added.await.into_iter().collect();
        let peer = match added {
            Ok(names) => names.into_iter().next(),
            Err(error) => {
                // The shard that owns the port may have refused it because it is in use.
                self.remove_forward(forward).await;
                return Err(refusal(error));
            }
        };
        let peer = peer.ok_or_else(|| refusal("the endpoint is stopping"))?;
        if let Some(dnat_rules) = self.dnat_rules_for(&forward)
            && let Err(error) = dnat_rules.forward_free_port(forward.port()).await
        {
            self.remove_forward(forward).await;
            return Err(refusal(error));
        }
        self.port_log.forward(&forward, Some(&peer));
        Ok(())
    }

    /// Closes a forward.
    async fn close_forward(&self, forward: Forward) -> Result<(), Refusal> {
        if !self.remove_forward(forward).await {
            let (port, to) = (forward.port(), forward.to);
            return Err(Refusal {
                message: format!("LAN port {port} is not forwarded to {to}"),
                remedy: Some("see `vcgate forward list`".into()),
            });
        }
        self.port_log.unforward(&forward);
        // The forward is closed even if its DNAT rule cannot be removed: the whole table may be
        // gone.
        let port = forward.port();
        if let Some(dnat_rules) = self.dnat_rules_for(&forward)
            && let Err(error) = dnat_rules.stop_forwarding(port).await
        {
            tracing::warn!(%port, %error, "cannot remove the DNAT rule of a closed forward");
        }
        Ok(())
    }

    async fn remove_forward(&self, forward: Forward) -> bool {
        let removed = self
            .shards
            .ask_all(move |engine, now| engine.remove_forward(nat_forward(&forward), now));
        removed.await.into_iter().any(|removed| removed)
    }

    /// Returns the DNAT rules if clients share the machine's own address of the forward's family.
    fn dnat_rules_for(&self, forward: &Forward) -> Option<&DnatRules> {
        self.reconciler.dnat_rules_for(forward)
    }

    /// Makes changes of peers in all shards.
    async fn change_peers(&self, steps: Vec<PeerStep>) -> Vec<Result<(), StepError>> {
        if steps.is_empty() {
            return Vec::new();
        }
        let answers = self.shards.ask_all(move |engine, now| {
            engine.change_peers(now, |engine| {
                let steps = steps.into_iter();
                steps.map(|s| step(engine, s, now)).collect::<Vec<_>>()
            })
        });
        // All shards answer alike.
        answers.await.into_iter().next().unwrap_or_default()
    }

    /// Returns the configuration in force, with the present peers: `wg` may have changed them. Peers
    /// that may not connect are not present, and as the configuration has them.
    pub(super) async fn running_config(&self, config: &Config) -> Config {
        let named: HashMap<_, _> = config
            .peers
            .iter()
            .map(|peer| (peer.public_key, peer.clone()))
            .collect();
        let answers = self.shards.ask_all(move |engine, _| {
            let key = PrivateKey::from(engine.tunnel().private_key().to_bytes());
            let peers = engine.tunnel().own_peers().map(|peer| {
                let public_key = peer.public_key.into();
                let named: Option<&Peer> = named.get(&public_key);
                Peer {
                    name: peer.name.to_owned(),
                    public_key,
                    preshared_key: peer.preshared_key.cloned(),
                    preshared_key_file: None,
                    allowed_ips: peer.allowed_ips.to_vec(),
                    persistent_keepalive: peer.persistent_keepalive.and_then(NonZeroU16::new),
                    reach: named.and_then(|named| named.reach.clone()),
                    rates: named.map_or_else(Rates::default, |named| named.rates),
                    lan_address: named.and_then(|named| named.lan_address),
                    lifecycle: Lifecycle {
                        disabled: false,
                        ..named.map_or_else(Lifecycle::default, |n| n.lifecycle.clone())
                    },
                    dns: named.is_none_or(|named| named.dns),
                    client: named.map(|named| named.client.clone()).unwrap_or_default(),
                }
            });
            (key, peers.collect::<Vec<_>>())
        });
        let mut running = config.clone();
        running.peers.clear();
        running.interface.listen_port = self.listen_port.get();
        for (key, peers) in answers.await {
            running.interface.private_key = key;
            running.peers.extend(peers);
        }
        let present: HashSet<_> = running.peers.iter().map(|peer| peer.public_key).collect();
        let now = SystemTime::now();
        let absent = config
            .peers
            .iter()
            .filter(|peer| !peer.lifecycle.is_active(now) && !present.contains(&peer.public_key));
        running.peers.extend(absent.cloned());
        running
    }
}

/// Returns the step for a change of a peer; `None` for other changes. A peer that may not connect is
/// not in the engines.
fn change_of_peer(active: &ActiveConfig, change: &Change) -> Option<PeerStep> {
    let set = |peer: &Peer| {
        let rules = active.rules(peer.reach.as_deref());
        PeerStep::Set(peer_settings(peer), rules, peer.rates, peer.lan_address)
    };
    match change {
        Change::PeerRemoved(peer) | Change::PeerExpired(peer) => {
            Some(PeerStep::Remove(peer.public_key))
        }
        Change::PeerChanged(peer, _) | Change::PeerAdded(peer) => {
            Some(match peer.lifecycle.is_active(SystemTime::now()) {
                true => set(peer),
                false => PeerStep::Remove(peer.public_key),
            })
        }
        _ => None,
    }
}

fn step(engine: &mut Engine, step: PeerStep, now: Instant) -> Result<(), StepError> {
    match step {
        PeerStep::Remove(key) => {
            // A peer that may not connect, or that `wg` has removed, is not there.
            if let Some(id) = engine.tunnel().find(&key.into()) {
                engine.remove_peer(id, now);
            }
        }
        PeerStep::Set(settings, rules, rates, lan_address) => {
            let id = match engine.tunnel().find(&settings.public_key) {
                Some(id) => {
                    engine.set_lan_address(id, lan_address, now)?;
                    engine.change_peer(id, settings, rules, now);
                    id
                }
                None => {
                    let id = engine.add_peer(settings, rules, now)?;
                    if let Err(error) = engine.set_lan_address(id, lan_address, now) {
                        engine.remove_peer(id, now);
                        return Err(error.into());
                    }
                    id
                }
            };
            engine.set_rates(id, rates, now);
        }
    }
    Ok(())
}

/// Logs each change; the span names the caller.
fn log_changes(reload: &Reload) {
    for change in &reload.changes {
        match change.refused {
            Some(_) => tracing::error!(target: AUDIT, "{change}"),
            None => tracing::info!(target: AUDIT, "{change}"),
        }
    }
}

/// Logs the result of a reload, which is the only answer to a signal.
fn log(reload: &Reload) {
    let Problems { errors, warnings } = &reload.problems;
    for problem in errors {
        tracing::error!("{problem}");
    }
    for problem in warnings {
        tracing::warn!("{problem}");
    }
    log_changes(reload);
    if let Some(deferred) = reload.deferred() {
        tracing::warn!("{deferred}");
    }
    let file = reload.file.display();
    match (errors.is_empty(), reload.changes.len()) {
        (false, _) => tracing::error!(
            "cannot use {file}: it has errors, so nothing was changed; correct them and reload"
        ),
        (true, changes) => tracing::info!(target: AUDIT, changes, "{file} was read again"),
    }
}
