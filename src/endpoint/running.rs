//! The running endpoint as the control plane holds it: it asks the shard, which is never held up,
//! and changes it between two batches.

use super::assemble::{Facts, udp_settings};
use super::clock::Clock;
use super::events::Recent;
use super::lane::Lane;
use super::tell::Kept;
use super::{device, ports, report};
use crate::config::{Forward, reach};
use crate::control::endpoint::{Endpoint, PeerChange, Refusal};
use crate::control::report::{Flow, HookMode, Lan, LanMode, SmbCounters, SmbReport, Status};
use crate::control::timeline::Timeline;
use crate::control::uapi::device::{DeviceChange, DeviceState, Errno, UapiError};
use crate::engine::Engine;
use crate::host::Doors;
use crate::io::shard::ShardHandle;
use crate::io::tun::Offload;
use crate::io::udp::Udp;
use crate::smb;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// The endpoint, as the control plane holds it.
pub(super) struct Running {
    facts: Facts,
    listen_port: Cell<u16>,
    shard: ShardHandle<Lane>,
    pub(super) recent: RefCell<Recent>,
    pub(super) timeline: RefCell<Kept>,
    pub(super) notes: ports::Sender,
    /// Where clients share the machine's own address, one for each such family.
    pub(super) doors: Vec<Doors>,
}

impl Running {
    pub(super) fn new(
        facts: Facts,
        shard: ShardHandle<Lane>,
        notes: ports::Sender,
        doors: Vec<Doors>,
    ) -> Self {
        Self {
            listen_port: Cell::new(facts.listen_port),
            facts,
            shard,
            recent: RefCell::default(),
            timeline: RefCell::default(),
            notes,
            doors,
        }
    }

    /// Asks the shard. A shard that is gone answers with what is empty: the endpoint is about to
    /// stop then, and says why.
    pub(super) async fn ask<T: Default + Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> T {
        let answer = self
            .shard
            .with(move |lane, now| question(&mut lane.engine, now));
        answer.await.unwrap_or_default()
    }

    /// The name of the peer that an inner address belongs to.
    pub(super) async fn client_name(&self, address: IpAddr) -> String {
        self.ask(move |engine, _| report::client_name(engine, address))
            .await
    }

    fn hook_mode(&self) -> HookMode {
        match self.facts.hook {
            smb::Mode::Assign => HookMode::Assign,
            smb::Mode::Observe => HookMode::Observe,
            smb::Mode::Off => HookMode::Off,
        }
    }

    fn offloads(&self) -> Vec<String> {
        let Facts {
            offload, gso, gro, ..
        } = self.facts;
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

impl Endpoint for Running {
    async fn status(&self) -> Status {
        let clock = Clock::read();
        let (peers, mut drops, smb, public_key) = self
            .ask(move |engine, now| {
                let key = *engine.tunnel().public_key().as_bytes();
                (
                    report::peers(engine, now, clock),
                    report::drops(engine),
                    report::counters(engine),
                    key,
                )
            })
            .await;
        let shard = self.shard.counters();
        drops.insert("udp_send_bytes".into(), shard.udp_lost_bytes.load(Relaxed));
        drops.insert("tun_write".into(), shard.tun_lost_packets.load(Relaxed));
        drops.retain(|_, count| *count > 0);
        let facts = &self.facts;
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: facts.interface.clone(),
            public_key: public_key.into(),
            listen_port: self.listen_port.get(),
            address: facts.address.clone(),
            lan: Lan {
                interface: facts.lan_interface.clone(),
                address: facts.lan_address.into(),
                address6: facts.lan_address6.map(IpAddr::V6),
                mode: match facts.lan_is_auto {
                    true => LanMode::Auto,
                    false => LanMode::Fixed,
                },
            },
            uptime_seconds: facts.started.elapsed().as_secs(),
            shards: 1,
            offloads: self.offloads(),
            peers,
            drops,
            smb: SmbCounters {
                hook: self.hook_mode(),
                ..smb
            },
        }
    }

    async fn flows(&self) -> Vec<Flow> {
        let facts = self.facts.clone();
        self.ask(move |engine, now| {
            let flows = engine.nat().flows(now);
            flows
                .map(|flow| report::describe(engine, &flow, facts.lan(flow.inside.ip())))
                .collect()
        })
        .await
    }

    async fn smb(&self) -> SmbReport {
        let (counters, flows) = self
            .ask(|engine, now| (report::counters(engine), report::smb_flows(engine, now)))
            .await;
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

    async fn uapi_get(&self) -> DeviceState {
        let clock = Clock::read();
        let state = self
            .ask(move |engine, _| device::state(engine, clock))
            .await;
        DeviceState {
            listen_port: self.listen_port.get(),
            ..state
        }
    }

    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError> {
        if change.fwmark.is_some_and(|mark| mark != 0) {
            let message = "fwmark is not supported: vcgate routes nothing into its own tunnel";
            return Err(UapiError::new(Errno::NotSupported, message));
        }
        if let Some(port) = change
            .listen_port
            .filter(|port| *port != self.listen_port.get())
        {
            let udp = Udp::bind(udp_settings(self.facts.wanted, port))
                .map_err(|error| UapiError::new(Errno::AddressInUse, error.to_string()))?;
            self.listen_port.set(udp.port());
            self.shard.replace_udp(udp);
        }
        let rules = self.facts.rules(None);
        self.ask(move |engine, now| device::apply(engine, change, &rules, now))
            .await;
        Ok(())
    }

    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal> {
        let own = peer.reach.iter().map(|rule| rule.parse::<reach::Rule>());
        let own: Vec<_> = own.collect::<Result<_, _>>().map_err(refusal)?;
        let rules = self.facts.rules((!own.is_empty()).then_some(&own));
        let settings = device::peer_settings(peer);
        let added =
            self.ask(move |engine, now| Some(engine.add_peer(settings, rules, now).map(|_| ())));
        match added.await {
            Some(result) => result.map_err(refusal),
            None => Err(refusal("the endpoint is stopping")),
        }
    }

    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal> {
        self.open_forward(forward).await
    }

    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal> {
        self.close_forward(forward).await
    }

    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal> {
        let name = peer.to_owned();
        let removed = self.ask(move |engine, now| {
            let found = engine
                .tunnel()
                .peers()
                .find(|p| p.name == name || device::key_text(&p.public_key) == name);
            let id = found.map(|p| p.id);
            id.map(|id| engine.remove_peer(id, now))
        });
        removed.await.ok_or_else(|| Refusal {
            message: format!("there is no peer {peer:?}"),
            remedy: Some("see `vcgate peer list`".into()),
        })
    }
}

pub(super) fn refusal(message: impl ToString) -> Refusal {
    Refusal {
        message: message.to_string(),
        remedy: None,
    }
}
