//! Reports about an engine in the types of the control plane. Pure functions that change nothing.

use crate::control::failure::{Cause, Failure};
use crate::control::report::{
    Flow, FlowSmb, MappedNetwork, PeerStatus, Protocol, SmbCounters, SmbFlow,
};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use vcgate_core::engine::Engine;
use vcgate_core::ids::PeerId;
use vcgate_core::nat;
use vcgate_core::smb;
use vcgate_core::tunnel::{self, DropReason, FailureCause};

/// A simultaneous reading of both clocks. It converts an [`Instant`] of the data plane, which has
/// no clock, to a time of day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant, SystemTime);

impl Clock {
    /// Reads both clocks.
    pub(super) fn read() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// Returns the time of day of `at`.
    pub(super) fn time_of_day(self, at: Instant) -> SystemTime {
        let time = match at.checked_duration_since(self.0) {
            Some(later) => self.1.checked_add(later),
            None => self.1.checked_sub(self.0.saturating_duration_since(at)),
        };
        time.unwrap_or(self.1)
    }
}

/// Returns the nanoseconds since 1970, up to the year 2554.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the name of the peer that has an inner address, or else the address.
pub(super) fn client_name(engine: &Engine, address: IpAddr) -> String {
    let peer = engine.tunnel().route(address);
    let name = peer.and_then(|peer| engine.tunnel().name(peer));
    name.map_or_else(|| address.to_string(), str::to_owned)
}

/// Returns the status of the shard's own peers.
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
        last_seen: peer.last_seen.map(|at| clock.time_of_day(at).into()),
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
            .map(|failure| self::failure(&failure, clock)),
    };
    let own = engine.tunnel().own_peers();
    own.map(|peer| (peer.id, status(peer))).collect()
}

/// Returns the report of a failure.
pub(super) fn failure(failure: &tunnel::Failure, clock: Clock) -> Failure {
    let cause = match failure.cause {
        FailureCause::UnknownKey(key) => Cause::UnknownKey {
            public_key: (*key.as_bytes()).into(),
        },
        FailureCause::WrongServerKey => Cause::WrongServerKey,
        FailureCause::NotAuthentic => Cause::NotAuthentic,
        FailureCause::PresharedKey => Cause::PresharedKey,
        FailureCause::AnswersUnconfirmed => Cause::AnswersUnconfirmed,
        FailureCause::OldTimestamp => Cause::OldTimestamp,
        FailureCause::SourceNotAllowed(inner_address) => Cause::SourceNotAllowed { inner_address },
        FailureCause::SharedKey(other_source) => Cause::SharedKey { other_source },
    };
    Failure {
        time: clock.time_of_day(failure.at).into(),
        source: failure.source,
        cause,
    }
}

/// Returns the drop counters, by module and reason.
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
        ("rate_limit", pipeline.rate_limited),
        ("no_peer", pipeline.no_peer),
        ("no_endpoint", pipeline.no_endpoint),
        ("too_long", pipeline.too_long),
        ("offload", pipeline.offload),
    ];
    let pipeline = pipeline.map(|(name, count)| (name.to_owned(), count));
    tunnel.chain(nat).chain(pipeline).collect()
}

/// Returns the counters of the SMB hook.
pub(super) fn counters(engine: &Engine) -> SmbCounters {
    let counters = engine.hook().counters();
    let bypassed = smb::Reason::ALL
        .into_iter()
        .map(|reason| (reason.name().to_owned(), counters.bypassed(reason)))
        .filter(|(_, count)| *count > 0)
        .collect();
    SmbCounters {
        hook: smb::Mode::default(),
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

/// Returns the report of a flow; `lan` is its address on the LAN.
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
        remote_known_as: known_as(engine, flow.remote.ip()),
        state: flow.state.map_or("active", nat::TcpState::name).into(),
        idle_seconds: flow.idle.as_secs(),
        to_lan_bytes: flow.sent.bytes,
        to_lan_packets: flow.sent.packets,
        to_client_bytes: flow.received.bytes,
        to_client_packets: flow.received.packets,
        smb: engine.hook().flow(flow.id).map(|report| flow_smb(&report)),
    }
}

/// Returns the address by which clients know an address of the LAN, if it is another one.
fn known_as(engine: &Engine, lan: IpAddr) -> Option<IpAddr> {
    engine.netmap().to_client(lan).filter(|known| *known != lan)
}

/// Returns the networks of the LAN that clients know by other addresses.
pub(super) fn mapped(engine: &Engine) -> Vec<MappedNetwork> {
    let maps = engine.netmap().iter().map(|map| MappedNetwork {
        network: map.lan(),
        known_as: map.client(),
    });
    maps.collect()
}

/// Returns the report of a flow that the hook inspects.
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
        vc_number: report.number.map(smb::VcNumber::get),
        state: match (report.bypass, report.session_setups) {
            (Some(reason), _) => reason.name(),
            (None, 0) => "negotiating",
            (None, _) => "smb1",
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn instants_before_and_after_the_reading_have_a_time_of_day() {
        const SECOND: Duration = Duration::from_secs(1);
        let clock = Clock::read();
        let Clock(at, time) = clock;
        assert_eq!(clock.time_of_day(at), time);
        assert_eq!(clock.time_of_day(at + SECOND), time + SECOND);
        assert_eq!(clock.time_of_day(at - SECOND), time - SECOND);
        assert_eq!(unix_nanos(UNIX_EPOCH + SECOND), 1_000_000_000);
    }
}
