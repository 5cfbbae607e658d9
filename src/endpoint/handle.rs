//! The running endpoint as the control plane holds it: it asks the shards, which are never held
//! up for long, and changes all of them alike, between two batches of each.

use super::active_config::ActiveConfig;
use super::assemble::{RuntimeInfo, udp_settings};
use super::capture::Capturing;
use super::clock::Clock;
use super::conflicts::Conflicts;
use super::events::Recent;
use super::failures::Strangers;
use super::pipeline::ShardPipeline;
use super::reload::known;
use super::smb_events::TimelineBuffer;
use super::{device, ports, report};
use crate::config::{self, Change, Config, Forward, Peer};
use crate::control::endpoint::Captured;
use crate::control::endpoint::{Endpoint, PeerChange, Refusal};
use crate::control::reload::Reload;
use crate::control::report::{Flow, HookMode, Lan, LanMode, SmbCounters, SmbReport, Status};
use crate::control::timeline::Timeline;
use crate::control::uapi::device::{DeviceChange, DeviceState, Errno, UapiError};
use crate::host::Reconciler;
use crate::keys::PublicKey;
use crate::logging::{self, AUDIT, Log};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};
use tokio::sync::Mutex;
use vcgate_core::engine::{Engine, Filter};
use vcgate_core::ids::PeerId;
use vcgate_core::{nat, smb};
use vcgate_io::shard::ShardHandle;
use vcgate_io::tun::Offload;
use vcgate_io::udp::Udp;

/// As many flows are described before a shard goes back to its packets.
const AT_ONCE: usize = 512;

/// The endpoint, as the control plane holds it.
pub(super) struct EndpointHandle {
    pub(super) facts: RuntimeInfo,
    /// Held by whoever changes something, until it is changed.
    pub(super) force: Mutex<ActiveConfig>,
    pub(super) listen_port: Cell<u16>,
    /// In the order of their numbers.
    pub(super) shards: Vec<ShardHandle<ShardPipeline>>,
    pub(super) recent: RefCell<Recent>,
    pub(super) timeline: RefCell<TimelineBuffer>,
    pub(super) capturing: Capturing,
    pub(super) conflicts: RefCell<Conflicts>,
    pub(super) strangers: RefCell<Strangers>,
    pub(super) notes: ports::Sender,
    pub(super) guard: Reconciler,
    pub(super) log: Log,
}

impl EndpointHandle {
    pub(super) fn new(
        facts: RuntimeInfo,
        force: ActiveConfig,
        shards: Vec<ShardHandle<ShardPipeline>>,
        notes: ports::Sender,
        guard: Reconciler,
        log: Log,
    ) -> Self {
        Self {
            listen_port: Cell::new(facts.listen_port),
            facts,
            force: Mutex::new(force),
            shards,
            recent: RefCell::default(),
            timeline: RefCell::default(),
            capturing: Capturing::default(),
            conflicts: RefCell::default(),
            strangers: RefCell::default(),
            notes,
            guard,
            log,
        }
    }

    /// Asks all shards, each at its place in the same order of questions and changes. A shard
    /// that is gone gives no answer: the endpoint is about to stop then, and says why.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine, Instant) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let ask = |shard: &ShardHandle<ShardPipeline>| {
            let question = question.clone();
            shard.with(move |lane, now| question(&mut lane.engine, now))
        };
        // All are asked before the first answer is awaited.
        let asked: Vec<_> = self.shards.iter().map(ask).collect();
        let mut answers = Vec::new();
        for answer in asked {
            answers.extend(answer.await.ok());
        }
        answers
    }

    /// Goes through the flows of all shards, a bounded number of them between two batches.
    async fn of_flows<T: Send + 'static>(
        &self,
        pick: impl Fn(&Engine, &nat::Flow) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for part in 0.. {
            let places = part * AT_ONCE..(part + 1) * AT_ONCE;
            let pick = pick.clone();
            let answers = self.ask_all(move |engine, now| {
                let more = engine.nat().slot_count() > places.end;
                let flows = engine.nat().flows_in(places, now);
                let picked = flows.filter_map(|flow| pick(engine, &flow));
                (picked.collect::<Vec<_>>(), more)
            });
            let answers = answers.await;
            let more = answers.iter().any(|(_, more)| *more);
            all.extend(answers.into_iter().flat_map(|(picked, _)| picked));
            if !more {
                break;
            }
        }
        all
    }

    /// Asks one shard what all of them know.
    pub(super) async fn ask_one<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let shard = self.shards.first()?;
        let answer = shard.with(move |lane, now| question(&mut lane.engine, now));
        answer.await.ok()
    }

    /// The name of the peer that an inner address belongs to.
    pub(super) async fn client_name(&self, address: IpAddr) -> String {
        let name = self.ask_one(move |engine, _| report::client_name(engine, address));
        name.await.unwrap_or_default()
    }

    fn hook_mode(&self) -> HookMode {
        match self.facts.hook {
            smb::Mode::Assign => HookMode::Assign,
            smb::Mode::Observe => HookMode::Observe,
            smb::Mode::Off => HookMode::Off,
        }
    }

    fn offloads(&self) -> Vec<String> {
        let RuntimeInfo { offload, gro, .. } = self.facts;
        let mut shards = self.shards.iter().map(ShardHandle::counters);
        let gso = shards.all(|counters| counters.udp_gso.load(Relaxed));
        [
            (offload >= Offload::Tcp, "tun-tcp"),
            (offload >= Offload::TcpAndUdp, "tun-udp"),
            (gso, "udp-gso"),
            (gro, "udp-gro"),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| name.to_owned())
        .collect()
    }
}

impl Endpoint for EndpointHandle {
    async fn status(&self) -> Status {
        let clock = Clock::read();
        let answers = self.ask_all(move |engine, _| {
            (
                report::peers(engine, clock),
                report::drops(engine),
                report::counters(engine),
                *engine.tunnel().public_key().as_bytes(),
            )
        });
        let (mut peers, mut drops) = (Vec::new(), BTreeMap::<String, u64>::new());
        let (mut smb, mut public_key) = (SmbCounters::default(), [0; 32]);
        for (own, dropped, counters, key) in answers.await {
            peers.extend(own);
            let dropped = dropped.into_iter();
            dropped.for_each(|(reason, count)| *drops.entry(reason).or_default() += count);
            smb.add(counters);
            public_key = key;
        }
        for counters in self.shards.iter().map(ShardHandle::counters) {
            let own = [
                ("udp_send_bytes", &counters.udp_lost_bytes),
                ("tun_write", &counters.tun_lost_packets),
                ("shard_behind", &counters.mail_lost),
            ];
            for (name, count) in own {
                *drops.entry(name.into()).or_default() += count.load(Relaxed);
            }
        }
        drops.retain(|_, count| *count > 0);
        let facts = &self.facts;
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: facts.interface.clone(),
            file: facts.file.to_str().map(PathBuf::from),
            public_key: public_key.into(),
            listen_port: self.listen_port.get(),
            address: facts.address.clone(),
            lan: Lan {
                interface: facts.lan_interface.clone(),
                address: facts.external_address.into(),
                address6: facts.external_address6.map(IpAddr::V6),
                mode: match facts.lan_is_auto {
                    true => LanMode::Auto,
                    false => LanMode::Fixed,
                },
                conflicts: self.conflicts.borrow().list(SystemTime::now().into()),
            },
            uptime_seconds: facts.started.elapsed().as_secs(),
            shards: self.shards.len(),
            offloads: self.offloads(),
            peers: in_order(peers),
            drops,
            failed_handshakes: self.strangers.borrow().list(),
            smb: SmbCounters {
                hook: self.hook_mode(),
                ..smb
            },
        }
    }

    async fn flows(&self) -> Vec<Flow> {
        let facts = self.facts.clone();
        let describe = move |engine: &Engine, flow: &nat::Flow| {
            let lan = facts.lan(flow.inside.ip());
            Some(report::describe(engine, flow, lan))
        };
        self.of_flows(describe).await
    }

    async fn smb(&self) -> SmbReport {
        let mut counters = SmbCounters::default();
        let answers = self.ask_all(|engine, _| report::counters(engine));
        answers.await.into_iter().for_each(|own| counters.add(own));
        let flows = self.of_flows(report::smb_flow).await;
        SmbReport {
            counters: SmbCounters {
                hook: self.hook_mode(),
                ..counters
            },
            flows,
            recent: self.recent.borrow().list(),
        }
    }

    async fn timeline(&self, from: u64) -> Timeline {
        self.timeline.borrow().from(from)
    }

    async fn capture_start(&self, filter: Filter) -> Result<(), Refusal> {
        self.start_capture(filter).await
    }

    async fn capture_take(&self) -> Captured {
        self.take_capture().await
    }

    async fn capture_stop(&self) -> Captured {
        self.stop_capture().await
    }

    async fn uapi_get(&self) -> DeviceState {
        let clock = Clock::read();
        let answers = self
            .ask_all(move |engine, _| (device::private_key(engine), device::peers(engine, clock)));
        let mut state = DeviceState {
            listen_port: self.listen_port.get(),
            ..DeviceState::default()
        };
        let mut peers = Vec::new();
        for (private_key, own) in answers.await {
            state.private_key = Some(private_key);
            peers.extend(own);
        }
        state.peers = in_order(peers);
        state
    }

    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError> {
        let mut force = self.force.lock().await;
        device::check(&change)?;
        let before = self.running_config(&force.config).await;
        let endpoints = endpoints_of(&change);
        if let Some(port) = change
            .listen_port
            .filter(|port| *port != self.listen_port.get())
        {
            let shards = u8::try_from(self.shards.len()).unwrap_or(u8::MAX);
            let sockets = Udp::bind_all(udp_settings(self.facts.wanted, port), shards)
                .map_err(|error| UapiError::new(Errno::AddressInUse, error.to_string()))?;
            for (shard, udp) in self.shards.iter().zip(sockets) {
                self.listen_port.set(udp.port());
                shard.replace_udp(udp);
            }
        }
        let keys = change.peers.iter().map(|section| &section.public_key);
        let known = known(&force, keys);
        self.ask_all(move |engine, now| {
            engine.change_peers(now, |engine| device::apply(engine, change, &known, now));
        })
        .await;
        let after = self.running_config(&force.config).await;
        log_changes(&before, &after, &endpoints);
        self.follow_peers(&mut force).await;
        Ok(())
    }

    async fn log_level(&self, level: Option<String>) -> Result<String, Refusal> {
        if let Some(level) = level {
            let set = self.log.set_filter(&logging::without_boringtun(&level));
            set.map_err(|_| Refusal {
                message: format!("{level:?} is not a log level"),
                remedy: Some(
                    "write error, warn, info, debug, trace, or as info,vcgate_core::tunnel=debug"
                        .into(),
                ),
            })?;
            tracing::info!(target: AUDIT, level, "the log level was changed");
        }
        Ok(self.log.filter())
    }

    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal> {
        let mut force = self.force.lock().await;
        self.make_one(&mut force, Change::PeerAdded(peer.into()))
            .await
    }

    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal> {
        let mut force = self.force.lock().await;
        self.make_one(&mut force, Change::ForwardAdded(forward))
            .await
    }

    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal> {
        let mut force = self.force.lock().await;
        self.make_one(&mut force, Change::ForwardRemoved(forward))
            .await
    }

    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal> {
        let mut force = self.force.lock().await;
        let is_it = |p: &Peer| p.name == peer || p.public_key.to_string() == peer;
        let there = self.running_config(&force.config).await.peers;
        // What `wg` has taken away does not come back by its name.
        force.config.peers.retain(|p| !is_it(p));
        let Some(found) = there.into_iter().find(is_it) else {
            return Err(Refusal {
                message: format!("there is no peer {peer:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        };
        self.make_one(&mut force, Change::PeerRemoved(found)).await
    }

    async fn reload(&self) -> Reload {
        self.read_again().await
    }
}

/// The endpoints of peers that a change sets.
fn endpoints_of(change: &DeviceChange) -> Vec<(PublicKey, SocketAddr)> {
    let sections = change.peers.iter().filter(|section| !section.remove);
    let endpoints = sections.filter_map(|s| Some((s.public_key, s.endpoint?)));
    endpoints.collect()
}

/// Logs the difference that a change made by `wg` has made.
fn log_changes(before: &Config, after: &Config, endpoints: &[(PublicKey, SocketAddr)]) {
    let mut made = Reload::of(&after.path);
    for change in config::difference(before, after) {
        made.note(&change, None);
    }
    for change in &made.changes {
        tracing::info!(target: AUDIT, "{change}");
    }
    // A new port or key is in force at once here, unlike in the file.
    for key in &made.at_next_start {
        tracing::info!(target: AUDIT, "{key}: changed");
    }
    for (key, endpoint) in endpoints {
        if let Some(peer) = after.peers.iter().find(|peer| peer.public_key == *key) {
            tracing::info!(target: AUDIT, "peer {}: endpoint set to {endpoint}", peer.name);
        }
    }
}

/// In the order in which they were added.
fn in_order<T>(mut peers: Vec<(PeerId, T)>) -> Vec<T> {
    peers.sort_by_key(|(id, _)| *id);
    peers.into_iter().map(|(_, peer)| peer).collect()
}

pub(super) fn refusal(message: impl ToString) -> Refusal {
    Refusal {
        message: message.to_string(),
        remedy: None,
    }
}
