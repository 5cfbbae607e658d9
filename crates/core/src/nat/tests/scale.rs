//! Nearly as many mappings as there are ports, of both families: all work, their memory is as
//! documented, and their expiry does not block other packets.

use super::*;
use std::collections::HashSet;

const MAPPINGS: usize = 60_000;
/// Mappings per client; a block has 64 ports.
const PER_CLIENT: usize = 60;

const SERVERS: [SocketAddr; 2] = [
    SocketAddr::new(v4::SERVER, 7053),
    SocketAddr::new(v6::SERVER, 7053),
];

/// Returns the inside endpoint of mapping `n`; every other client has IPv6.
fn inside(n: usize) -> SocketAddr {
    let client = n / PER_CLIENT;
    let [a, b] = (client as u16 / 2 + 16).to_be_bytes();
    let client = match client % 2 {
        0 => v4::client(a, b),
        _ => v6::client(a, b),
    };
    at(client, 20_000 + (n % PER_CLIENT) as u16)
}

fn server(inside: SocketAddr) -> SocketAddr {
    SERVERS[usize::from(inside.is_ipv6())]
}

/// Returns a NAT with all mappings, each with one session, and their ports.
fn filled() -> (World<()>, Vec<u16>) {
    let mut w = World::<()>::new(settings());
    let ports = (0..MAPPINGS).map(|n| {
        let mut p = udp(inside(n), server(inside(n)), b"x");
        let outcome = w.outbound(&mut p);
        assert!(matches!(outcome, Outcome::Forward(Some(_))));
        ends(&p).0.port()
    });
    let ports = ports.collect();
    (w, ports)
}

#[test]
fn rfc4787_req3_sixty_thousand_mappings_share_no_port_and_all_work() {
    let (mut w, ports) = filled();
    assert_eq!(w.nat.flows(w.now).count(), MAPPINGS);
    let seen: HashSet<_> = (ports.iter().enumerate())
        .map(|(n, port)| (inside(n).is_ipv6(), port))
        .collect();
    assert_eq!(seen.len(), MAPPINGS);
    let events = std::iter::from_fn(|| w.nat.poll_block()).count();
    assert_eq!(events, MAPPINGS / PER_CLIENT, "one block per client");
    for (n, port) in ports.iter().enumerate() {
        let inside = inside(n);
        let lan = w.nat.lan.first(inside.ip()).unwrap();
        let mut answer = udp(server(inside), at(lan, *port), b"y");
        assert!(matches!(w.inbound(&mut answer), Outcome::Forward(Some(_))));
        assert_eq!(ends(&answer).1, inside);
    }
    // The memory that the documentation of the table states.
    let (mapping, session) = w.nat.table.memory();
    let each = |bytes: usize| bytes.div_ceil(MAPPINGS);
    println!(
        "{} bytes per mapping, {} per session",
        each(mapping),
        each(session)
    );
    assert!(each(mapping) <= 64, "{} bytes per mapping", each(mapping));
    assert!(each(session) <= 224, "{} bytes per session", each(session));
}

#[test]
fn sixty_thousand_sessions_expire_in_bounded_steps() {
    let (mut w, _) = filled();
    while w.nat.poll_block().is_some() {}
    w.now += 5 * MINUTE;
    let steps = self::steps(&mut w, |nat| nat.table.sessions.len(), MAPPINGS);
    assert_eq!(steps, MAPPINGS.div_ceil(MAX_EXPIRED_PER_CALL));
    let closed = std::iter::from_fn(|| w.nat.poll_closed());
    assert_eq!(closed.count(), MAPPINGS);
    // Their ports leave quarantine at the same time.
    w.now += PORT_HOLD_TIME;
    let steps = self::steps(&mut w, |nat| nat.ports.quarantined().count(), MAPPINGS);
    assert_eq!(steps, MAPPINGS.div_ceil(MAX_EXPIRED_PER_CALL));
    let events = std::iter::from_fn(|| w.nat.poll_block());
    let returned = events.filter(|e| !e.given && e.client != v4::ALICE);
    assert_eq!(returned.count(), MAPPINGS / PER_CLIENT);
    w.advance(5 * MINUTE + PORT_HOLD_TIME);
    assert_eq!(w.nat.next_timeout(), None);
    assert_eq!(w.nat.clients.iter().count(), 0);
    assert!(w.nat.table.is_empty(), "{:?}", w.nat.table);
}

/// Counts calls until no timeout is due; each ends a bounded number of items, and between two calls
/// a packet is translated as usual.
fn steps(w: &mut World<()>, left: impl Fn(&Nat) -> usize, all: usize) -> usize {
    assert_eq!(left(&w.nat), all);
    let (client, server) = (at(v4::ALICE, 9), SERVERS[0]);
    let mut steps = 0;
    while w.nat.next_timeout().is_some_and(|due| due <= w.now) {
        let before = left(&w.nat);
        w.nat.handle_timeout(w.now);
        let ended = before - left(&w.nat);
        assert!(
            (1..=MAX_EXPIRED_PER_CALL).contains(&ended),
            "{ended} in one call"
        );
        steps += 1;
        let mut p = tcp(client, server, (SYN, 1, 0), &[], b"");
        if steps == 2 {
            assert!(matches!(w.outbound(&mut p), Outcome::Forward(Some(_))));
            assert!(w.flow_of(client).is_some());
            w.remove_peer_of(client.ip());
            assert!(w.nat.poll_closed().is_some());
        }
    }
    steps
}
