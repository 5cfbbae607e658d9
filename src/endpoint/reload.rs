//! Changes of the running endpoint that outlive the command: to peers, rules, forwards and routes,
//! whether one was asked for or a whole configuration was read again.
//!
//! They are made one after the other. What they do not name goes on: sessions, flows, counters.

use super::active_config::ActiveConfig;
use super::assemble::{adjustable, global_policy, peer_settings, routed, rules};
use super::device::PeerDirectory;
use super::handle::{EndpointHandle, refusal};
use crate::config::{self, Change, Config, Peer, Problems};
use crate::control::endpoint::Refusal;
use crate::control::reload::Reload;
use crate::keys::{PrivateKey, PublicKey};
use crate::logging::AUDIT;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::num::NonZeroU16;
use std::time::Instant;
use tokio::signal::unix::Signal;
use vcgate_core::engine::{Engine, Rule};
use vcgate_core::tunnel::PeerSettings;

/// A change to a peer, as an engine makes it.
#[derive(Clone)]
enum Step {
    Remove(PublicKey),
    Change(PeerSettings, Vec<Rule>),
    Add(PeerSettings, Vec<Rule>),
}

impl EndpointHandle {
    /// Reads the configuration again whenever the signal comes.
    pub(super) async fn reload_at(&self, hangup: &mut Signal) -> Infallible {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the configuration again");
            self.read_again().await;
        }
        std::future::pending().await
    }

    /// Takes over what the file says now.
    pub(super) async fn read_again(&self) -> Reload {
        let mut force = self.force.lock().await;
        let mut reload = Reload::of(&force.config.path);
        match config::load(&reload.file) {
            Ok(loaded) => {
                reload.problems.warnings = loaded.warnings;
                for (change, refused) in self.apply_config(&mut force, &loaded.config).await {
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
        force: &mut ActiveConfig,
        new: &Config,
    ) -> Vec<(Change, Option<Refusal>)> {
        let changes = config::difference(&self.running_config(&force.config).await, new);
        let is_key = |change: &Change| matches!(change, Change::Key(_));
        let other_networks = self.look_at_lan(force).await;
        if other_networks || changes.iter().any(is_key) {
            force.config.take_over(new);
            self.set_global_policy(force).await;
        }
        let made = self.make(force, changes).await;
        for error in self
            .follow_egress(force)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(%error, "clients do not reach all of their destinations");
        }
        let named: HashSet<_> = new.peers.iter().map(|peer| peer.public_key).collect();
        force.config.peers.retain(|p| named.contains(&p.public_key));
        made
    }

    /// Makes one change, and says why not if it is refused.
    pub(super) async fn make_one(
        &self,
        force: &mut ActiveConfig,
        change: Change,
    ) -> Result<(), Refusal> {
        let made = self.make(force, vec![change]).await;
        let mut report = Reload::of(&force.config.path);
        let mut result = Ok(());
        for (change, refused) in made {
            report.note(&change, refused.as_ref().map(ToString::to_string));
            result = refused.map_or(result, Err);
        }
        log_changes(&report);
        result
    }

    /// Makes changes to peers and forwards. Each comes back with why it was refused, if it was.
    async fn make(
        &self,
        force: &mut ActiveConfig,
        changes: Vec<Change>,
    ) -> Vec<(Change, Option<Refusal>)> {
        let steps = changes.iter().filter_map(|c| change_of_peer(force, c));
        let mut steps = self.change_peers(steps.collect()).await.into_iter();
        let mut made = Vec::new();
        for change in changes {
            let result = match &change {
                Change::PeerRemoved(_) | Change::PeerChanged(..) | Change::PeerAdded(_) => steps
                    .next()
                    .unwrap_or_else(|| Err("the endpoint is stopping".into()))
                    .map_err(refusal),
                Change::ForwardAdded(forward) => self.open_forward(*forward).await,
                Change::ForwardRemoved(forward) => self.close_forward(*forward).await,
                Change::Key(_) | Change::AtNextStart(_) => Ok(()),
            };
            if result.is_ok() {
                force.note(&change);
            }
            made.push((change, result.err()));
        }
        self.follow_peers(force).await;
        made
    }

    /// Sees to it that the LAN reaches those networks of clients that it knows as they are, and
    /// says what of the LAN clients reach no longer.
    pub(super) async fn follow_peers(&self, force: &mut ActiveConfig) {
        let peers = self.ask_one(|engine, _| {
            let peers = engine.tunnel().peers();
            peers
                .map(|peer| (peer.name.to_owned(), peer.allowed_ips.to_vec()))
                .collect::<Vec<_>>()
        });
        let Some(peers) = peers.await else { return };
        let prefixes = peers.iter().map(|(name, nets)| (&**name, &**nets));
        force.warn_of_taken(prefixes);
        let nets: Vec<_> = peers.into_iter().flat_map(|(_, nets)| nets).collect();
        let wanted = routed(&force.config, &nets);
        if let Err(error) = force.routes.set(&wanted).await {
            tracing::warn!(%error, "the LAN does not reach all networks behind peers");
        }
    }

    /// Makes the steps in all shards, each between two of its batches.
    async fn change_peers(&self, steps: Vec<Step>) -> Vec<Result<(), String>> {
        if steps.is_empty() {
            return Vec::new();
        }
        let answers = self.ask_all(move |engine, now| {
            engine.change_peers(now, |engine| {
                let steps = steps.into_iter();
                steps.map(|s| step(engine, s, now)).collect::<Vec<_>>()
            })
        });
        // All shards say the same.
        answers.await.into_iter().next().unwrap_or_default()
    }

    /// Takes over what holds for all clients.
    pub(super) async fn set_global_policy(&self, force: &ActiveConfig) {
        let config = &force.config;
        let (policy, adjustable) = (global_policy(force), adjustable(config));
        let known = known(force, config.peers.iter().map(|peer| &peer.public_key));
        self.ask_all(move |engine, _| {
            engine.set_global_policy(policy);
            engine.set_nat(adjustable);
            let peers = engine.tunnel().peers();
            let peers: Vec<_> = peers.map(|peer| (peer.id, peer.public_key)).collect();
            for (id, key) in peers {
                let (_, rules) = known.of(&key.into());
                engine.set_rules(id, rules);
            }
        })
        .await;
        force.warn_without_networks();
    }

    /// What is in force, with the peers as they are now: `wg` may have changed them.
    pub(super) async fn running_config(&self, config: &Config) -> Config {
        let reach: HashMap<_, _> = config
            .peers
            .iter()
            .map(|peer| (peer.public_key, peer.reach.clone()))
            .collect();
        let answers = self.ask_all(move |engine, _| {
            let key = PrivateKey::from(engine.tunnel().private_key().to_bytes());
            let peers = engine.tunnel().own_peers().map(|peer| {
                let public_key = peer.public_key.into();
                Peer {
                    name: peer.name.to_owned(),
                    public_key,
                    preshared_key: peer.preshared_key.cloned(),
                    preshared_key_file: None,
                    allowed_ips: peer.allowed_ips.to_vec(),
                    persistent_keepalive: peer.persistent_keepalive.and_then(NonZeroU16::new),
                    reach: reach.get(&public_key).cloned().flatten(),
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
        running
    }
}

/// What is known of these peers.
pub(super) fn known<'a>(
    force: &ActiveConfig,
    keys: impl Iterator<Item = &'a PublicKey>,
) -> PeerDirectory {
    let named = force.config.peers.iter();
    let named = named.map(|peer| (peer.public_key, peer));
    let named: HashMap<_, _> = named.collect();
    let known = |key: &PublicKey| {
        let peer = named.get(key)?;
        let rules = rules(force.networks(), peer.reach.as_deref());
        Some((*key, (peer.name.clone(), rules)))
    };
    PeerDirectory {
        peers: keys.filter_map(known).collect(),
        others: rules(force.networks(), None),
    }
}

/// What a change is to a peer, if it is one.
fn change_of_peer(force: &ActiveConfig, change: &Change) -> Option<Step> {
    let with_rules = |peer: &Peer| {
        let rules = rules(force.networks(), peer.reach.as_deref());
        (peer_settings(peer), rules)
    };
    match change {
        Change::PeerRemoved(peer) => Some(Step::Remove(peer.public_key)),
        Change::PeerChanged(peer, _) => {
            let (settings, rules) = with_rules(peer);
            Some(Step::Change(settings, rules))
        }
        Change::PeerAdded(peer) => {
            let (settings, rules) = with_rules(peer);
            Some(Step::Add(settings, rules))
        }
        _ => None,
    }
}

fn step(engine: &mut Engine, step: Step, now: Instant) -> Result<(), String> {
    let find = |engine: &Engine, key| {
        let found = engine.tunnel().find(&key);
        found.ok_or_else(|| "it is no longer there".to_owned())
    };
    match step {
        Step::Remove(key) => {
            let id = find(engine, key.into())?;
            engine.remove_peer(id, now);
        }
        Step::Change(settings, rules) => {
            let id = find(engine, settings.public_key)?;
            engine.change_peer(id, settings, rules, now);
        }
        Step::Add(settings, rules) => {
            let added = engine.add_peer(settings, rules, now);
            added.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Logs each change, with the caller that the span names.
fn log_changes(reload: &Reload) {
    for change in &reload.changes {
        match change.refused {
            Some(_) => tracing::error!(target: AUDIT, "{change}"),
            None => tracing::info!(target: AUDIT, "{change}"),
        }
    }
}

/// Tells what came of it; the one who sent a signal has no other answer.
fn log(reload: &Reload) {
    let Problems { errors, warnings } = &reload.problems;
    for problem in errors {
        tracing::error!("{problem}");
    }
    for problem in warnings {
        tracing::warn!("{problem}");
    }
    log_changes(reload);
    if let Some(not_yet) = reload.not_yet() {
        tracing::warn!("{not_yet}");
    }
    let file = reload.file.display();
    match (errors.is_empty(), reload.changes.len()) {
        (false, _) => tracing::error!("{file} is not in order: nothing was changed"),
        (true, changes) => tracing::info!(target: AUDIT, changes, "{file} was read again"),
    }
}
