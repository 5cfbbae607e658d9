//! The operations of the running endpoint that the control plane calls.

use super::assemble::{RuntimeInfo, udp_settings};
use super::peer_directory::PeerDirectory;
use super::report::Clock;
use super::state::EndpointHandle;
use super::{device, report};
use crate::config::{self, Change, Config, Forward, Peer};
use crate::control::endpoint::{Captured, Endpoint, PeerChange, Refusal};
use crate::control::reload::Reload;
use crate::control::report::LinkReport;
use crate::control::report::{Flow, InactivePeer, Lan, LanMode, SmbCounters, SmbReport, Status};
use crate::control::timeline::Timeline;
use crate::control::uapi::device::{DeviceChange, DeviceState, Errno, UapiError};
use crate::keys::PublicKey;
use crate::logging::{self, AUDIT};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};
use vcgate_core::engine::{Engine, Filter};
use vcgate_core::ids::PeerId;
use vcgate_core::nat;
use vcgate_io::shard::ShardHandle;
use vcgate_io::tun::Offload;
use vcgate_io::udp::Udp;

impl EndpointHandle {
    fn offloads(&self) -> Vec<String> {
        let RuntimeInfo { offload, gro, .. } = self.info;
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

impl EndpointHandle {
    /// Returns the peers of the configuration that may not connect.
    async fn inactive_peers(&self) -> Vec<InactivePeer> {
        let now = SystemTime::now();
        let active = self.active.lock().await;
        let peers = active.config.peers.iter();
        let inactive = peers.filter(|peer| !peer.lifecycle.is_active(now));
        let inactive = inactive.map(|peer| InactivePeer {
            name: peer.name.clone(),
            public_key: peer.public_key,
            state: peer.lifecycle.state(now),
            expires: peer.lifecycle.expires,
        });
        inactive.collect()
    }
}

impl Endpoint for EndpointHandle {
    async fn status(&self) -> Status {
        let clock = Clock::read();
        let answers = self.shards.ask_all(move |engine, _| {
            (
                report::peers(engine, clock),
                report::drops(engine),
                report::counters(engine),
                *engine.tunnel().public_key().as_bytes(),
                report::mapped(engine),
                engine.nat().lan_usage(),
            )
        });
        let (mut peers, mut drops) = (Vec::new(), BTreeMap::<String, u64>::new());
        let (mut smb, mut public_key) = (SmbCounters::default(), [0; 32]);
        let (mut mapped, mut usage) = (Vec::new(), Vec::new());
        for (own, dropped, counters, key, maps, used) in answers.await {
            usage.extend(used);
            peers.extend(own);
            let dropped = dropped.into_iter();
            dropped.for_each(|(reason, count)| *drops.entry(reason).or_default() += count);
            smb.add(counters);
            (public_key, mapped) = (key, maps);
        }
        for counters in self.shards.iter().map(ShardHandle::counters) {
            let own = [
                ("udp_send_bytes", &counters.udp_lost_bytes),
                ("tun_write", &counters.tun_lost_packets),
                ("shard_behind", &counters.messages_lost),
            ];
            for (name, count) in own {
                *drops.entry(name.into()).or_default() += count.load(Relaxed);
            }
        }
        drops.retain(|_, count| *count > 0);
        let inactive = self.inactive_peers().await;
        let info = &self.info;
        let conflicts = self.conflicts.borrow().list(SystemTime::now().into());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: info.interface.clone(),
            file: info.file.to_str().map(PathBuf::from),
            public_key: public_key.into(),
            listen_port: self.listen_port.get(),
            address: info.address.clone(),
            lan: Lan {
                interface: info.lan_interface.clone(),
                address: info.external_address.into(),
                address6: info.external_address6.map(IpAddr::V6),
                mode: match info.lan_is_auto {
                    true => LanMode::Auto,
                    false => LanMode::Fixed,
                },
                mapped,
                addresses: self.lan_addresses(&usage, &conflicts),
                conflicts,
            },
            uptime_seconds: info.started.elapsed().as_secs(),
            shards: self.shards.len(),
            offloads: self.offloads(),
            peers: in_order(peers),
            inactive,
            drops,
            confinement: Some(self.confined.report()),
            failed_handshakes: self.strangers.borrow().list(),
            dns: self.names.counters(),
            smb: SmbCounters {
                hook: self.info.hook,
                ..smb
            },
        }
    }

    async fn flows(&self) -> Vec<Flow> {
        let addresses = self.info.addresses();
        let describe = move |engine: &Engine, flow: &nat::Flow| {
            let lan = addresses.external(flow.lan);
            Some(report::describe(engine, flow, lan))
        };
        self.shards.collect_flows(describe).await
    }

    async fn smb(&self) -> SmbReport {
        let mut counters = SmbCounters::default();
        let answers = self.shards.ask_all(|engine, _| report::counters(engine));
        answers.await.into_iter().for_each(|own| counters.add(own));
        let flows = self.shards.collect_flows(report::smb_flow).await;
        SmbReport {
            counters: SmbCounters {
                hook: self.info.hook,
                ..counters
            },
            flows,
            recent: self.smb.logons(),
        }
    }

    async fn timeline(&self, from: u64) -> Timeline {
        self.smb.timeline(from)
    }

    async fn capture_start(&self, filter: Filter) -> Result<(), Refusal> {
        self.capture.start(&self.shards, filter).await
    }

    async fn capture_take(&self) -> Captured {
        self.capture.take(&self.shards).await
    }

    async fn capture_stop(&self) -> Captured {
        self.capture.stop(&self.shards).await
    }

    async fn uapi_get(&self) -> DeviceState {
        let clock = Clock::read();
        let answers = self
            .shards
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

    async fn uapi_set(&self, mut change: DeviceChange) -> Result<(), UapiError> {
        let mut active = self.active.lock().await;
        device::check(&change)?;
        device::drop_inactive(&mut change, &active.config, SystemTime::now());
        let before = self.running_config(&active.config).await;
        let endpoints = endpoints_of(&change);
        if let Some(port) = change
            .listen_port
            .filter(|port| *port != self.listen_port.get())
        {
            let shards = u8::try_from(self.shards.len()).unwrap_or(u8::MAX);
            let sockets = Udp::bind_all(udp_settings(self.info.wanted, port), shards)
                .map_err(|error| UapiError::new(Errno::AddressInUse, error.to_string()))?;
            for (shard, udp) in self.shards.iter().zip(sockets) {
                self.listen_port.set(udp.port());
                shard.replace_udp(udp);
            }
        }
        let keys = change.peers.iter().map(|section| &section.public_key);
        let directory = PeerDirectory::new(&active, keys);
        self.shards
            .ask_all(move |engine, now| {
                engine.change_peers(now, |engine| device::apply(engine, change, &directory, now));
            })
            .await;
        let after = self.running_config(&active.config).await;
        self.log_changes(&before, &after, &endpoints);
        self.update_routes(&mut active).await;
        Ok(())
    }

    async fn log_level(&self, level: Option<String>) -> Result<String, Refusal> {
        if let Some(level) = level {
            let old = self.log.filter();
            let set = self.log.set_filter(&logging::without_boringtun(&level));
            set.map_err(|_| Refusal {
                message: format!("{level:?} is not a log level"),
                remedy: Some(
                    "write error, warn, info, debug, trace, or as info,vcgate_core::tunnel=debug"
                        .into(),
                ),
            })?;
            tracing::info!(target: AUDIT, level, "changed the log level");
            self.audit.key("log level", old, level);
        }
        Ok(self.log.filter())
    }

    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal> {
        let mut active = self.active.lock().await;
        self.make_one(&mut active, Change::PeerAdded(peer.into()))
            .await
    }

    async fn peer_set(&self, before: PublicKey, peer: PeerChange) -> Result<(), Refusal> {
        let mut active = self.active.lock().await;
        let new = Peer::from(peer);
        let running = self.running_config(&active.config).await.peers;
        let old = running.into_iter().find(|p| p.public_key == before);
        let moved = old.as_ref();
        let moved = moved.map_or_else(Vec::new, |old| active.config.moved_forwards(old, &new));
        let mut changes: Vec<_> = match old {
            Some(old) if before == new.public_key => {
                Change::of_peer(&old, &new).into_iter().collect()
            }
            Some(old) => vec![Change::PeerRemoved(old), Change::PeerAdded(new)],
            None => vec![Change::PeerAdded(new)],
        };
        changes.extend(moved);
        self.make_each(&mut active, changes).await
    }

    async fn peer_link(&self, peer: &str, valid: Duration) -> Result<LinkReport, Refusal> {
        let active = self.active.lock().await;
        if active.config.admin.is_none() {
            return Err(Refusal {
                message: "the administration page is off, which serves links".into(),
                remedy: Some("set listen under [admin], and restart the endpoint".into()),
            });
        }
        if active.config.peer(peer).is_none() {
            return Err(Refusal {
                message: format!("there is no peer {peer:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        }
        let link = self.links.add(peer, valid).map_err(|error| Refusal {
            message: format!("cannot get random bytes from the system: {error}"),
            remedy: Some("try again".into()),
        })?;
        tracing::info!(target: AUDIT, "peer {peer}: link made, until {}", link.expires);
        Ok(link)
    }

    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal> {
        let mut active = self.active.lock().await;
        self.make_one(&mut active, Change::ForwardAdded(forward))
            .await
    }

    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal> {
        let mut active = self.active.lock().await;
        self.make_one(&mut active, Change::ForwardRemoved(forward))
            .await
    }

    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal> {
        let mut active = self.active.lock().await;
        let is_it = |p: &Peer| p.name == peer || p.public_key.to_string() == peer;
        let running = self.running_config(&active.config).await.peers;
        // A peer that `wg` has removed must not get its name back.
        active.config.peers.retain(|p| !is_it(p));
        let Some(found) = running.into_iter().find(is_it) else {
            return Err(Refusal {
                message: format!("there is no peer {peer:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        };
        self.make_one(&mut active, Change::PeerRemoved(found)).await
    }

    async fn reload(&self) -> Reload {
        self.read_again().await
    }
}

/// Returns the endpoints of peers that a change sets.
fn endpoints_of(change: &DeviceChange) -> Vec<(PublicKey, SocketAddr)> {
    let sections = change.peers.iter().filter(|section| !section.remove);
    let endpoints = sections.filter_map(|s| Some((s.public_key, s.endpoint?)));
    endpoints.collect()
}

impl EndpointHandle {
    /// Logs the differences that a change by `wg` made.
    fn log_changes(&self, before: &Config, after: &Config, endpoints: &[(PublicKey, SocketAddr)]) {
        let mut made = Reload::of(&after.path);
        for change in config::difference(before, after) {
            let key = change.peer().map(|peer| peer.public_key);
            let old = before
                .peers
                .iter()
                .find(|peer| Some(peer.public_key) == key);
            self.audit.change(&change, old, None);
            made.note(&change, None);
        }
        for change in &made.changes {
            tracing::info!(target: AUDIT, "{change}");
        }
        // Unlike in the file, a new port or key takes effect at once.
        for key in &made.at_next_start {
            tracing::info!(target: AUDIT, "{key}: changed");
        }
        for (key, endpoint) in endpoints {
            if let Some(peer) = after.peers.iter().find(|peer| peer.public_key == *key) {
                tracing::info!(target: AUDIT, "peer {}: endpoint set to {endpoint}", peer.name);
            }
        }
    }
}

/// Returns the peers of all shards in the order of their ids.
fn in_order<T>(mut peers: Vec<(PeerId, T)>) -> Vec<T> {
    peers.sort_by_key(|(id, _)| *id);
    peers.into_iter().map(|(_, peer)| peer).collect()
}
