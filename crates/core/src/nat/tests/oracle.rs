//! Compares the NAT with a simple model, a list of sessions,
//! for clients of comparison families.

use super::*;
use crate::nat::endpoint::Side;
use crate::nat::expiry::Class;
use crate::nat::tcp::{Segment, Tcp};
use proptest::prelude::*;
use std::collections::HashMap;

const CLIENTS: [IpAddr; 5] = [v4::ALICE, v4::BOB, v6::ALICE, v6::BOB, v4::GATEWAY];
const REMOTES: [[IpAddr; 2]; 2] = [[v4::SERVER, v4::OTHER], [v6::SERVER, v6::OTHER]];
const FLAGS: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
const PAUSES: [u64; 8] = [0, 1, 30, 59, 60, 240, 300, 7440];
const SHARD: std::ops::Range<u16> = 100..140;

#[derive(Debug, Clone, Copy)]
struct Event {
    protocol: Protocol,
    from: Side,
    client: usize,
    port: u16,
    remote: usize,
    remote_port: u16,
    /// A packet of the LAN to the port of the oracle's session with this index, if it exists.
    target: usize,
    flags: usize,
    numbers: (u32, u32),
    pause: usize,
    /// Changes the timeouts, or restores them.
    adjust: usize,
}

prop_compose! {
    fn event()(protocol in prop::sample::select(&Protocol::ALL[..]), inside in any::<bool>(),
               client in 0..5usize, port in 5000..5003u16, remote in 0..2usize, remote_port in 1..3u16,
               target in 0..8usize, flags in 0..6usize, numbers in (0..3u32, 0..3u32),
               pause in 0..24usize, adjust in 0..12usize) -> Event {
        let from = if inside { Side::Inside } else { Side::Lan };
        Event { protocol, from, client, port, remote, remote_port, target, flags, numbers, pause, adjust }
    }
}

#[derive(Debug, Clone)]
struct OracleSession {
    protocol: Protocol,
    inside: SocketAddr,
    port: u16,
    remote: SocketAddr,
    tcp: Tcp,
    class: Class,
    since: Instant,
}

struct Oracle {
    filtering: Filtering,
    timeouts: Timeouts,
    sessions: Vec<OracleSession>,
}

impl Oracle {
    fn advance(&mut self, now: Instant) {
        let timeouts = &self.timeouts;
        self.sessions
            .retain(|s| s.since + timeouts.of(s.class) > now);
    }

    fn port_of(&self, protocol: Protocol, inside: SocketAddr) -> Option<u16> {
        let s = self
            .sessions
            .iter()
            .find(|s| s.protocol == protocol && s.inside == inside)?;
        Some(s.port)
    }

    /// Returns the sessions of a port; each family has separate ports.
    fn of(
        &self,
        protocol: Protocol,
        port: u16,
        family: IpAddr,
    ) -> impl Iterator<Item = &OracleSession> {
        let mine = move |s: &&OracleSession| {
            (s.protocol, s.port, s.inside.is_ipv4()) == (protocol, port, family.is_ipv4())
        };
        self.sessions.iter().filter(mine)
    }

    fn inside_of(&self, protocol: Protocol, port: u16, family: IpAddr) -> Option<SocketAddr> {
        self.of(protocol, port, family).next().map(|s| s.inside)
    }

    fn admits(&self, protocol: Protocol, port: u16, sender: IpAddr) -> bool {
        self.filtering == Filtering::EndpointIndependent
            || (self.of(protocol, port, sender)).any(|s| s.remote.ip() == sender)
    }

    fn has(&self, protocol: Protocol, inside: SocketAddr, remote: SocketAddr) -> bool {
        self.sessions
            .iter()
            .any(|s| (s.protocol, s.inside, s.remote) == (protocol, inside, remote))
    }

    /// Updates the session of a packet that passed, or adds one.
    fn record(&mut self, new: OracleSession, from: Side, segment: Option<Segment>, now: Instant) {
        let same = |s: &OracleSession| {
            (s.protocol, s.inside, s.remote) == (new.protocol, new.inside, new.remote)
        };
        let index = self.sessions.iter().position(same).unwrap_or_else(|| {
            self.sessions.push(new);
            self.sessions.len() - 1
        });
        let session = &mut self.sessions[index];
        let mut refreshes = from == Side::Inside;
        if let Some(segment) = segment {
            if session.tcp.is_reopened_by(&segment) {
                session.tcp = Tcp::default();
            }
            refreshes = session.tcp.on_segment(from, &segment);
            let (old_class, class) = (session.class, session.tcp.class());
            let is_unanswered_reopen =
                from == Side::Lan && old_class == Class::Closing && class == Class::Opening;
            refreshes |= class != old_class && !is_unanswered_reopen;
        }
        if refreshes {
            session.since = now;
            if segment.is_some() {
                session.class = session.tcp.class();
            }
        }
    }
}

struct Comparison {
    world: World<()>,
    oracle: Oracle,
}

impl Comparison {
    fn new(filtering: Filtering) -> Self {
        let settings = Settings {
            filtering,
            on_unsolicited: OnUnsolicited::Drop,
            blocks: SHARD,
            ..settings()
        };
        let oracle = Oracle {
            filtering,
            timeouts: Timeouts::default(),
            sessions: Vec::new(),
        };
        Self {
            world: World::new(settings),
            oracle,
        }
    }

    fn apply(&mut self, e: Event) {
        if e.adjust < 2 {
            let seconds = |n| Duration::from_secs(n);
            self.oracle.timeouts = match e.adjust {
                0 => Timeouts::default(),
                _ => Timeouts {
                    udp: seconds(50),
                    tcp_opening: seconds(7440),
                    tcp_established: seconds(100),
                    ..Timeouts::default()
                },
            };
            self.world.nat.update_settings(AdjustableSettings {
                filtering: self.oracle.filtering,
                on_unsolicited: OnUnsolicited::Drop,
                timeouts: self.oracle.timeouts.clone(),
                limits: Limits::default(),
            });
            self.world.advance(Duration::ZERO);
            self.oracle.advance(self.world.now);
        }
        if let Some(pause) = PAUSES.get(e.pause) {
            self.world.advance(Duration::from_secs(*pause));
            self.oracle.advance(self.world.now);
        }
        let inside = at(CLIENTS[e.client], e.port);
        let remote_port = if e.protocol == Protocol::Echo {
            0
        } else {
            e.remote_port
        };
        let family = usize::from(inside.is_ipv6());
        let remote = at(REMOTES[family][e.remote], remote_port);
        match e.from {
            Side::Inside => self.apply_outbound(e, inside, remote),
            Side::Lan => self.apply_inbound(e, remote),
        }
    }

    fn apply_outbound(&mut self, e: Event, inside: SocketAddr, remote: SocketAddr) {
        let (mut bytes, segment) = packet(e, inside, remote);
        let outcome = self.world.outbound(&mut bytes);
        let known = self.oracle.has(e.protocol, inside, remote);
        if !known && segment.is_some_and(|s| s.rst) {
            assert_eq!(outcome, Outcome::Drop(Reason::NoSession));
            return;
        }
        assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
        assert_checksums(&bytes);
        let port = ends(&bytes).0.port();
        // The oracle accepts any new port, but a port must not change.
        if let Some(same) = self.oracle.port_of(e.protocol, inside) {
            assert_eq!(port, same);
        } else {
            assert_eq!(self.oracle.inside_of(e.protocol, port, inside.ip()), None);
        }
        self.record(e, inside, port, remote, segment);
    }

    fn apply_inbound(&mut self, e: Event, remote: SocketAddr) {
        let port = self
            .oracle
            .sessions
            .get(e.target)
            .map_or(e.port, |s| s.port);
        let lan = if remote.is_ipv4() { v4::LAN } else { v6::LAN };
        let (mut bytes, segment) = packet(e, remote, at(lan, port));
        let outcome = self.world.inbound(&mut bytes);
        let Some(inside) = self.oracle.inside_of(e.protocol, port, remote.ip()) else {
            assert_eq!(outcome, Outcome::Drop(Reason::NoMapping));
            return;
        };
        let known = self.oracle.has(e.protocol, inside, remote);
        if !known && !self.oracle.admits(e.protocol, port, remote.ip()) {
            assert_eq!(outcome, Outcome::Drop(Reason::Filtered));
            return;
        }
        if !known && segment.is_some_and(|s| !s.opens()) {
            assert_eq!(outcome, Outcome::Drop(Reason::NoSession));
            return;
        }
        let Outcome::Forward(flow) = outcome else {
            panic!("{outcome:?}")
        };
        assert_checksums(&bytes);
        assert_eq!(ends(&bytes).1, inside);
        assert_eq!(flow.is_some(), known || e.protocol == Protocol::Tcp);
        if flow.is_some() {
            self.record(e, inside, port, remote, segment);
        }
    }

    fn record(
        &mut self,
        e: Event,
        inside: SocketAddr,
        port: u16,
        remote: SocketAddr,
        segment: Option<Segment>,
    ) {
        let class = match e.protocol {
            Protocol::Tcp => Class::Opening,
            Protocol::Udp => Class::Udp,
            Protocol::Echo => Class::Echo,
        };
        let now = self.world.now;
        let tcp = Tcp::default();
        let new = OracleSession {
            protocol: e.protocol,
            inside,
            port,
            remote,
            tcp,
            class,
            since: now,
        };
        self.oracle.record(new, e.from, segment, now);
    }

    fn compare(&self) {
        let now = self.world.now;
        let mut world: Vec<_> = self
            .world
            .nat
            .flows(now)
            .map(|f| {
                format!(
                    "{:?} {} {} {} {:?}",
                    f.protocol, f.inside, f.port, f.remote, f.idle
                )
            })
            .collect();
        let mut oracle: Vec<_> = self
            .oracle
            .sessions
            .iter()
            .map(|s| {
                let idle = now - s.since;
                format!(
                    "{:?} {} {} {} {idle:?}",
                    s.protocol, s.inside, s.port, s.remote
                )
            })
            .collect();
        world.sort();
        oracle.sort();
        assert_eq!(world, oracle);
        self.assert_ports_are_exclusive();
    }

    /// Asserts that no two inside endpoints share a port and no two clients a block, and that all
    /// ports belong to the shard.
    fn assert_ports_are_exclusive(&self) {
        let (mut ports, mut blocks) = (HashMap::new(), HashMap::new());
        for f in self.world.nat.flows(self.world.now) {
            let (family, block) = (f.inside.is_ipv4(), f.port / BLOCK_SIZE);
            let of_port = ports.entry((f.protocol, family, f.port));
            assert_eq!(*of_port.or_insert(f.inside), f.inside);
            let of_block = blocks.entry((family, block));
            assert_eq!(*of_block.or_insert(f.inside.ip()), f.inside.ip());
            assert!(SHARD.contains(&block));
        }
    }
}

fn packet(e: Event, src: SocketAddr, dst: SocketAddr) -> (Vec<u8>, Option<Segment>) {
    match (e.protocol, e.from) {
        (Protocol::Udp, _) => (udp(src, dst, b"x"), None),
        (Protocol::Echo, Side::Inside) => (ping(src.ip(), dst.ip(), false, src.port()), None),
        (Protocol::Echo, Side::Lan) => (ping(src.ip(), dst.ip(), true, dst.port()), None),
        (Protocol::Tcp, _) => {
            let (flags, (seq, ack)) = (FLAGS[e.flags], e.numbers);
            let bytes = tcp(src, dst, (flags, seq, ack), &[], b"");
            let segment = Segment::read(
                &TcpPacket::new_unchecked(&bytes[Headers::parse(&bytes).unwrap().l4..]),
                0,
            );
            (bytes, Some(segment))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_nat_agrees_with_a_simple_oracle(
        events in prop::collection::vec(event(), 1..100), independent in any::<bool>(),
    ) {
        let filtering = if independent { Filtering::EndpointIndependent } else { Filtering::AddressDependent };
        let mut comparison = Comparison::new(filtering);
        for event in events {
            comparison.apply(event);
            comparison.compare();
        }
        // After all sessions expired no state remains.
        comparison.world.advance(300 * MINUTE);
        prop_assert_eq!(comparison.world.nat.flows(comparison.world.now).count(), 0);
        prop_assert_eq!(comparison.world.nat.clients.iter().count(), 0);
        prop_assert_eq!(comparison.world.nat.next_timeout(), None);
    }
}
