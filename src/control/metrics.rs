//! The status as metrics, in two text formats: that of Prometheus, which its textfile collector
//! reads, and OpenMetrics.
//!
//! Names are stable, as those of the JSON reports. It counts nothing itself.

use super::report::{LanAddress, PeerStatus, SmbCounters, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::iter;
use vcgate_core::smb::Mode;
use vcgate_dns::Counters;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// Encodes the counters of a [`Status`], with the interface as a label.
///
/// # Errors
/// If the encoder fails, which a string never causes.
pub fn of(status: &Status, format: Format) -> Result<String, fmt::Error> {
    let interface = ("interface".into(), status.interface.clone().into());
    let mut registry = Registry::with_prefix_and_labels("vcgate", iter::once(interface));
    let version = Info::new([("version", status.version.clone())]);
    registry.register("endpoint", "The running endpoint", version);
    registry.register_collector(Box::new(Metrics(status.clone())));
    let mut written = String::new();
    match format {
        Format::Prometheus => prometheus_text::encode(&mut written, &registry)?,
        Format::OpenMetrics => text::encode(&mut written, &registry)?,
    }
    Ok(written)
}

#[derive(Debug)]
struct Metrics(Status);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let Status {
            lan,
            uptime_seconds,
            shards,
            peers,
            drops,
            dns,
            smb,
            ..
        } = &self.0;
        families.gauge(
            (
                "uptime",
                "Time since the endpoint began to forward",
                Some(Unit::Seconds),
            ),
            *uptime_seconds,
        )?;
        families.gauge(
            ("shards", "Threads of the data plane", None),
            *shards as u64,
        )?;
        families.lan(&lan.addresses)?;
        families.peers(peers)?;
        families.counters(
            ("dropped_packets", "Packets that were dropped", None),
            "reason",
            drops.iter().map(|(reason, count)| (reason, *count)),
        )?;
        dns.map_or(Ok(()), |dns| families.dns(dns))?;
        families.smb(smb)
    }
}

/// A family's name, help text and unit.
type Head = (&'static str, &'static str, Option<Unit>);

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn lan(&mut self, addresses: &[LanAddress]) -> fmt::Result {
        let each = |value: fn(&LanAddress) -> u64| {
            let addresses = addresses.iter();
            addresses.map(move |lan| (lan.address.to_string(), value(lan)))
        };
        self.gauges(
            (
                "lan_address_clients",
                "Clients with ports or flows at the LAN address",
                None,
            ),
            "address",
            each(|lan| lan.clients),
        )?;
        self.gauges(
            (
                "lan_address_ports",
                "Ports of the LAN address that are assigned to clients",
                None,
            ),
            "address",
            each(|lan| lan.ports),
        )?;
        self.gauges(
            (
                "lan_address_conflict",
                "Whether another station was lately heard to use the LAN address",
                None,
            ),
            "address",
            each(|lan| lan.conflict.into()),
        )
    }

    fn peers(&mut self, peers: &[PeerStatus]) -> fmt::Result {
        let each = |value: fn(&PeerStatus) -> u64| peers.iter().map(move |p| (&p.name, value(p)));
        self.counters(
            (
                "peer_received",
                "UDP payload received from the peer",
                Some(Unit::Bytes),
            ),
            "peer",
            each(|peer| peer.rx_bytes),
        )?;
        self.counters(
            (
                "peer_sent",
                "UDP payload sent to the peer",
                Some(Unit::Bytes),
            ),
            "peer",
            each(|peer| peer.tx_bytes),
        )?;
        self.counters(
            (
                "peer_denied_packets",
                "Packets that the peer's rules denied",
                None,
            ),
            "peer",
            each(|peer| peer.denied_packets),
        )?;
        self.counters(
            (
                "peer_limited_packets",
                "Packets over one of the peer's limits",
                None,
            ),
            "peer",
            each(|peer| peer.limited_packets),
        )?;
        self.gauges(
            ("peer_flows", "Live flows", None),
            "peer",
            each(|peer| peer.flows as u64),
        )?;
        let handshakes = peers
            .iter()
            .filter_map(|peer| Some((&peer.name, peer.last_handshake?.0)));
        let head = (
            "peer_last_handshake_timestamp",
            "Time of the last completed handshake, in Unix time",
            Some(Unit::Seconds),
        );
        self.gauges(head, "peer", handshakes)?;
        let seen = peers
            .iter()
            .filter_map(|peer| Some((&peer.name, peer.last_seen?.0)));
        let head = (
            "peer_last_seen_timestamp",
            "Time of the last authentic message received, in Unix time",
            Some(Unit::Seconds),
        );
        self.gauges(head, "peer", seen)
    }

    fn dns(&mut self, counters: Counters) -> fmt::Result {
        let Counters {
            queries: _,
            local,
            cache_hits,
            forwarded,
            netbios,
            refused,
            failed,
            limited,
        } = counters;
        let outcomes = [
            ("local", local),
            ("cache_hit", cache_hits),
            ("forwarded", forwarded),
            ("netbios", netbios),
            ("refused", refused),
            ("failed", failed),
            ("limited", limited),
        ];
        let head = ("dns_queries", "DNS questions of clients", None);
        self.counters(head, "outcome", outcomes)
    }

    fn smb(&mut self, smb: &SmbCounters) -> fmt::Result {
        let SmbCounters {
            hook,
            session_setups,
            zero_seen,
            rewritten,
            preserved,
            signed_untouched,
            stale_probed,
            stale_alive,
            stale_reset,
            unread_setups,
            shared_numbers,
            aborted,
            unreadable_reset,
            bad_chains,
            held,
            held_dropped,
            invalid_dropped,
            events_dropped,
            bypassed,
        } = smb;
        let modes = [Mode::Assign, Mode::Observe, Mode::Off];
        let is = modes.map(|mode| (mode.name(), u64::from(mode == *hook)));
        self.gauges(("smb_hook", "The mode of the SMB hook", None), "mode", is)?;
        for (name, help, count) in [
            (
                "session_setups",
                "SESSION_SETUP_ANDX requests",
                session_setups,
            ),
            ("zero_seen", "Requests that came with VcNumber 0", zero_seen),
            (
                "rewritten",
                "Requests whose VcNumber was replaced",
                rewritten,
            ),
            (
                "preserved",
                "Requests whose VcNumber was right already",
                preserved,
            ),
            (
                "signed_untouched",
                "Requests not changed since a signature covers them",
                signed_untouched,
            ),
            (
                "stale_probed",
                "Older connections for which the client got a probe",
                stale_probed,
            ),
            (
                "stale_alive",
                "Older connections that the client still used",
                stale_alive,
            ),
            (
                "stale_reset",
                "Older connections that were reset",
                stale_reset,
            ),
            (
                "unread_setups",
                "Requests on flows in bypass",
                unread_setups,
            ),
            (
                "shared_numbers",
                "Flows that share their VcNumber with another flow",
                shared_numbers,
            ),
            (
                "aborted",
                "Connections reset since too many requests were unacknowledged",
                aborted,
            ),
            (
                "unreadable_reset",
                "Connections reset since they could not be read",
                unreadable_reset,
            ),
            (
                "bad_chains",
                "Messages with a chain of commands that servers reject",
                bad_chains,
            ),
            (
                "held_packets",
                "Packets held until the bytes before them arrived",
                held,
            ),
            (
                "held_dropped_packets",
                "Packets dropped because too many were held",
                held_dropped,
            ),
            (
                "invalid_dropped_packets",
                "Packets of clients that servers would ignore",
                invalid_dropped,
            ),
            (
                "events_dropped",
                "Events missing in the log and the timeline",
                events_dropped,
            ),
        ] {
            self.counter(&format!("smb_{name}"), help, *count)?;
        }
        let reasons = bypassed.iter().map(|(reason, count)| (reason, *count));
        self.counters(
            ("smb_bypassed_flows", "Flows forwarded unread", None),
            "reason",
            reasons,
        )
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count).encode(metric)
    }

    fn gauge(&mut self, (name, help, unit): Head, value: u64) -> fmt::Result {
        let unit = unit.as_ref();
        let metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// Writes a counter for each value of a label.
    fn counters<L: AsRef<str>>(
        &mut self,
        (name, help, unit): Head,
        label: &'static str,
        counts: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let unit = unit.as_ref();
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (value, count) in counts {
            let labels = [(label, value.as_ref())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes a gauge for each value of a label.
    fn gauges<L: AsRef<str>>(
        &mut self,
        (name, help, unit): Head,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let unit = unit.as_ref();
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (value, now) in values {
            let labels = [(label, value.as_ref())];
            ConstGauge::new(now).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{Lan, LanMode};
    use crate::control::time::Timestamp;
    use crate::keys::PublicKey;

    fn peer(name: &str, last_handshake: Option<u64>) -> PeerStatus {
        PeerStatus {
            name: name.into(),
            public_key: PublicKey::from([7; 32]),
            endpoint: None,
            allowed_ips: Vec::new(),
            last_handshake: last_handshake.map(Timestamp),
            rx_bytes: 1 << 40,
            tx_bytes: 5,
            persistent_keepalive_seconds: None,
            queued_packets: 0,
            flows: 3,
            denied_packets: 4,
            limited_packets: 0,
            connected: false,
            last_failure: None,
            last_seen: None,
        }
    }

    fn status() -> Status {
        Status {
            version: "1.2.3".into(),
            interface: "vcg0".into(),
            file: None,
            public_key: PublicKey::from([9; 32]),
            listen_port: 51820,
            address: Vec::new(),
            lan: Lan {
                interface: "eth0".into(),
                address: [192, 168, 77, 2].into(),
                address6: None,
                mode: LanMode::Fixed,
                mapped: Vec::new(),
                addresses: vec![LanAddress {
                    address: [192, 168, 77, 50].into(),
                    peer: Some("anna".into()),
                    clients: 1,
                    ports: 64,
                    conflict: true,
                }],
                conflicts: Vec::new(),
            },
            uptime_seconds: 60,
            shards: 2,
            offloads: Vec::new(),
            peers: vec![peer("anna", Some(1_700_000_000)), peer("say \"b\"", None)],
            drops: [("no_mapping".into(), 8)].into(),
            confinement: None,
            inactive: Vec::new(),
            failed_handshakes: Vec::new(),
            dns: Some(Counters {
                cache_hits: 5,
                ..Counters::default()
            }),
            smb: SmbCounters {
                hook: Mode::Observe,
                rewritten: 6,
                bypassed: [("smb2".into(), 9)].into(),
                ..SmbCounters::default()
            },
        }
    }

    /// Dashboards rely on these names: lines are added here, but none changes.
    #[test]
    fn metric_names_are_stable() {
        for format in [Format::Prometheus, Format::OpenMetrics] {
            samples(&of(&status(), format).unwrap());
        }
    }

    #[track_caller]
    fn samples(text: &str) {
        for line in [
            r#"vcgate_endpoint_info{interface="vcg0",version="1.2.3"} 1"#,
            r#"vcgate_uptime_seconds{interface="vcg0"} 60"#,
            r#"vcgate_shards{interface="vcg0"} 2"#,
            r#"vcgate_peer_received_bytes_total{interface="vcg0",peer="anna"} 1099511627776"#,
            r#"vcgate_peer_sent_bytes_total{interface="vcg0",peer="anna"} 5"#,
            r#"vcgate_peer_denied_packets_total{interface="vcg0",peer="anna"} 4"#,
            r#"vcgate_peer_limited_packets_total{interface="vcg0",peer="say \"b\""} 0"#,
            r#"vcgate_peer_flows{interface="vcg0",peer="anna"} 3"#,
            r#"vcgate_peer_last_handshake_timestamp_seconds{interface="vcg0",peer="anna"} 1700000000"#,
            r#"vcgate_lan_address_clients{interface="vcg0",address="192.168.77.50"} 1"#,
            r#"vcgate_lan_address_ports{interface="vcg0",address="192.168.77.50"} 64"#,
            r#"vcgate_lan_address_conflict{interface="vcg0",address="192.168.77.50"} 1"#,
            r#"vcgate_dropped_packets_total{interface="vcg0",reason="no_mapping"} 8"#,
            r#"vcgate_dns_queries_total{interface="vcg0",outcome="cache_hit"} 5"#,
            r#"vcgate_dns_queries_total{interface="vcg0",outcome="limited"} 0"#,
            r#"vcgate_smb_hook{interface="vcg0",mode="assign"} 0"#,
            r#"vcgate_smb_hook{interface="vcg0",mode="observe"} 1"#,
            r#"vcgate_smb_rewritten_total{interface="vcg0"} 6"#,
            r#"vcgate_smb_bypassed_flows_total{interface="vcg0",reason="smb2"} 9"#,
        ] {
            assert!(
                text.lines().any(|is| is == line),
                "{line} is not in\n{text}"
            );
        }
        let met = text
            .lines()
            .filter(|line| line.starts_with("vcgate_peer_last"));
        assert_eq!(met.count(), 1, "a peer without a handshake has no time");
    }

    /// Prometheus before 2.5 and node_exporter's textfile collector accept neither the type info nor
    /// counters whose heads lack `_total`.
    #[test]
    fn the_formats_differ_in_their_heads() {
        let prometheus = of(&status(), Format::Prometheus).unwrap();
        let openmetrics = of(&status(), Format::OpenMetrics).unwrap();
        for (text, expected, other) in [
            (
                &prometheus,
                [
                    "# TYPE vcgate_endpoint_info gauge",
                    "# TYPE vcgate_smb_rewritten_total counter",
                    "# TYPE vcgate_peer_received_bytes_total counter",
                ],
                ["# UNIT", "# EOF"],
            ),
            (
                &openmetrics,
                [
                    "# TYPE vcgate_endpoint info",
                    "# TYPE vcgate_smb_rewritten counter",
                    "# UNIT vcgate_uptime_seconds seconds",
                ],
                [" untyped", "_total counter"],
            ),
        ] {
            for line in expected {
                assert!(
                    text.lines().any(|is| is == line),
                    "{line} is not in\n{text}"
                );
            }
            for part in other {
                assert!(!text.contains(part), "{part} is in\n{text}");
            }
        }
        assert!(openmetrics.ends_with("# EOF\n"));
    }
}
