//! What an engine holds, in the words of the reports. Pure functions; nothing is changed.

use super::clock::Clock;
use super::failures;
use crate::control::report::{Flow, FlowSmb, HookMode, PeerStatus, Protocol, SmbCounters, SmbFlow};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use vcgate_core::engine::Engine;
use vcgate_core::ids::PeerId;
use vcgate_core::nat;
use vcgate_core::smb;
use vcgate_core::tunnel::{self, DropReason};

pub(super) fn client_name(engine: &Engine, address: IpAddr) -> String {
    let peer = engine.tunnel().route(address);
    let name = peer.and_then(|peer| engine.tunnel().name(peer));
    name.map_or_else(|| address.to_string(), str::to_owned)
}

/// The shard's own peers.
pub(super) fn peers(engine: &Engine, clock: Clock) -> Vec<(PeerId, PeerStatus)> {
    let mut flows: HashMap<_, usize> = HashMap::new();
    for (client, count) in engine.nat().clients() {
        if let Some(peer) = engine.tunnel().route(client) {
            *flows.entry(peer).or_default() += count as usize;
        }
    }
    let status = |peer: tunnel::PeerStatus<'_>| PeerStatus {
        name: peer.name.to_owned(),
        public_key: (*peer.public_key.as_bytes()).into(),
        endpoint: peer.path.map(|path| path.remote),
        allowed_ips: peer.allowed_ips.to_vec(),
        last_handshake: peer.last_handshake.map(|at| clock.time_of_day(at).into()),
        rx_bytes: peer.rx,
        tx_bytes: peer.tx,
        persistent_keepalive_seconds: peer.persistent_keepalive,
        queued_packets: peer.queued,
        flows: flows.get(&peer.id).copied().unwrap_or(0),
        denied_packets: engine.drop_counters(peer.id).denied,
        limited_packets: engine.drop_counters(peer.id).limited,
        connected: peer.connected,
        last_failure: peer
            .last_failure
            .map(|failure| failures::describe(&failure, clock)),
    };
    let own = engine.tunnel().own_peers();
    own.map(|peer| (peer.id, status(peer))).collect()
}

/// Drops by room and reason.
pub(super) fn drops(engine: &Engine) -> BTreeMap<String, u64> {
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
        ("too_long", pipeline.too_long),
        ("offload", pipeline.offload),
    ];
    let pipeline = pipeline.map(|(name, count)| (name.to_owned(), count));
    tunnel.chain(nat).chain(pipeline).collect()
}

pub(super) fn counters(engine: &Engine) -> SmbCounters {
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
        preserved: counters.preserved,
        signed_untouched: counters.signed_untouched,
        stale_probed: counters.stale_probed,
        stale_alive: counters.stale_alive,
        stale_reset: counters.stale_reset,
        unread_setups: counters.unread_setups,
        shared_numbers: counters.shared_numbers,
        aborted: counters.aborted,
        unreadable_reset: counters.unreadable_reset,
        bad_chains: counters.bad_chains,
        held: counters.held,
        held_dropped: counters.held_dropped,
        invalid_dropped: counters.invalid_dropped,
        events_dropped: counters.events_dropped,
        bypassed,
    }
}

pub(super) fn describe(engine: &Engine, flow: &nat::Flow, lan: IpAddr) -> Flow {
    Flow {
        peer: client_name(engine, flow.inside.ip()),
        protocol: match flow.protocol {
            nat::Protocol::Tcp => Protocol::Tcp,
            nat::Protocol::Udp => Protocol::Udp,
            nat::Protocol::Echo => Protocol::Icmp,
        },
        client: flow.inside,
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

/// A flow that the hook follows.
pub(super) fn smb_flow(engine: &Engine, flow: &nat::Flow) -> Option<SmbFlow> {
    let report = engine.hook().flow(flow.id)?;
    Some(SmbFlow {
        peer: client_name(engine, flow.inside.ip()),
        client: flow.inside,
        server: flow.remote,
        smb: flow_smb(&report),
        idle_seconds: flow.idle.as_secs(),
    })
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
