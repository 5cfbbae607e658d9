//! The running endpoint as reports show it: asked of the shard, which is never held up.

use super::assemble::Facts;
use super::device;
use super::events::{Recent, unix_seconds};
use super::lane::Lane;
use crate::config::reach;
use crate::control::endpoint::{Endpoint, PeerChange, Refusal};
use crate::control::report::{
    Flow, FlowSmb, HookMode, Lan, LanMode, PeerStatus, Protocol, SmbCounters, SmbFlow, SmbReport,
    Status,
};
use crate::control::uapi::device::{DeviceChange, DeviceState, Errno, UapiError};
use crate::engine::Engine;
use crate::io::shard::ShardHandle;
use crate::io::tun::Offload;
use crate::io::udp::{Settings, Udp};
use crate::nat;
use crate::smb;
use crate::tunnel::DropReason;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

/// The endpoint, as the control plane holds it.
pub(super) struct Running {
    facts: Facts,
    listen_port: Cell<u16>,
    shard: ShardHandle<Lane>,
    pub(super) recent: RefCell<Recent>,
}

impl Running {
    pub(super) fn new(facts: Facts, shard: ShardHandle<Lane>) -> Self {
        Self {
            listen_port: Cell::new(facts.listen_port),
            facts,
            shard,
            recent: RefCell::default(),
        }
    }

    /// Asks the shard. A shard that is gone answers with what is empty: the endpoint is about to
    /// stop then, and says why.
    async fn ask<T: Default + Send + 'static>(
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
        self.ask(move |engine, _| client_name(engine, address))
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
                    peers(engine, now, clock),
                    drops(engine),
                    counters(engine),
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
        let lan = self.facts.lan_address.into();
        self.ask(move |engine, now| {
            let flows = engine.nat().flows(now);
            flows.map(|flow| describe(engine, &flow, lan)).collect()
        })
        .await
    }

    async fn smb(&self) -> SmbReport {
        let (counters, flows) = self
            .ask(|engine, now| (counters(engine), smb_flows(engine, now)))
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
            let udp = Udp::bind(Settings::on_port(port))
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

fn refusal(message: impl ToString) -> Refusal {
    Refusal {
        message: message.to_string(),
        remedy: None,
    }
}

/// Both clocks at one moment, to tell the time of day of an [`Instant`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant, SystemTime);

impl Clock {
    fn read() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    pub(super) fn time_of_day(self, at: Instant) -> SystemTime {
        let ago = self.0.saturating_duration_since(at);
        self.1.checked_sub(ago).unwrap_or(self.1)
    }
}

fn client_name(engine: &Engine, address: IpAddr) -> String {
    let peer = engine.tunnel().route(address);
    let name = peer.and_then(|peer| engine.tunnel().name(peer));
    name.map_or_else(|| address.to_string(), str::to_owned)
}

fn peers(engine: &Engine, now: Instant, clock: Clock) -> Vec<PeerStatus> {
    let mut flows: HashMap<_, usize> = HashMap::new();
    for flow in engine.nat().flows(now) {
        if let Some(peer) = engine.tunnel().route(flow.inside.ip()) {
            *flows.entry(peer).or_default() += 1;
        }
    }
    let status = engine.tunnel().peers();
    status
        .map(|peer| PeerStatus {
            name: peer.name.to_owned(),
            public_key: (*peer.public_key.as_bytes()).into(),
            endpoint: peer.path.map(|path| path.remote),
            allowed_ips: peer.allowed_ips.to_vec(),
            last_handshake_unix_seconds: peer
                .last_handshake
                .map(|at| unix_seconds(clock.time_of_day(at))),
            rx_bytes: peer.rx,
            tx_bytes: peer.tx,
            persistent_keepalive_seconds: peer.persistent_keepalive,
            queued_packets: peer.queued,
            flows: flows.get(&peer.id).copied().unwrap_or(0),
        })
        .collect()
}

/// Drops by room and reason.
fn drops(engine: &Engine) -> BTreeMap<String, u64> {
    let pipeline = engine.counters();
    let tunnel = DropReason::ALL
        .into_iter()
        .map(|reason| (format!("tunnel_{}", reason.name()), pipeline.tunnel(reason)));
    let nat = nat::Reason::ALL.into_iter().map(|reason| {
        (
            format!("nat_{}", reason.name()),
            engine.nat().counters().dropped(reason),
        )
    });
    let pipeline = [
        ("malformed", pipeline.malformed),
        ("address", pipeline.address),
        ("damaged", pipeline.damaged),
        ("denied", pipeline.denied),
        ("no_peer", pipeline.no_peer),
        ("no_endpoint", pipeline.no_endpoint),
        ("offload", pipeline.offload),
    ];
    let pipeline = pipeline.map(|(name, count)| (name.to_owned(), count));
    tunnel.chain(nat).chain(pipeline).collect()
}

fn counters(engine: &Engine) -> SmbCounters {
    let counters = engine.hook().counters();
    let bypassed = smb::Reason::ALL
        .into_iter()
        .map(|reason| (reason.name().to_owned(), counters.bypassed(reason)))
        .filter(|(_, count)| *count > 0)
        .collect();
    SmbCounters {
        hook: HookMode::default(),
        session_setups: counters.session_setups,
        zero_seen: counters.zeros,
        rewritten: counters.rewritten,
        signed_untouched: counters.signed_untouched,
        bypassed,
    }
}

fn describe(engine: &Engine, flow: &nat::Flow, lan: IpAddr) -> Flow {
    Flow {
        client: client_name(engine, flow.inside.ip()),
        protocol: match flow.protocol {
            nat::Protocol::Tcp => Protocol::Tcp,
            nat::Protocol::Udp => Protocol::Udp,
            nat::Protocol::Echo => Protocol::Icmp,
        },
        inner: flow.inside,
        lan: SocketAddr::new(lan, flow.port),
        remote: flow.remote,
        state: flow.state.map_or("active", nat::TcpState::name).into(),
        idle_seconds: flow.idle.as_secs(),
        to_lan_bytes: flow.sent.bytes,
        to_lan_packets: flow.sent.packets,
        to_client_bytes: flow.received.bytes,
        to_client_packets: flow.received.packets,
        smb: engine.hook().flow(flow.id).map(|report| flow_smb(&report)),
    }
}

fn smb_flows(engine: &Engine, now: Instant) -> Vec<SmbFlow> {
    let hooked = |flow: nat::Flow| {
        let report = engine.hook().flow(flow.id)?;
        Some(SmbFlow {
            client: client_name(engine, flow.inside.ip()),
            inner: flow.inside,
            server: flow.remote,
            smb: flow_smb(&report),
            idle_seconds: flow.idle.as_secs(),
        })
    };
    engine.nat().flows(now).filter_map(hooked).collect()
}

fn flow_smb(report: &smb::FlowReport) -> FlowSmb {
    FlowSmb {
        vc_number: report.number,
        state: match (report.bypass, report.session_setups) {
            (Some(reason), _) => reason.name(),
            (None, 0) => "negotiating",
            (None, _) => "smb1",
        }
        .into(),
    }
}
