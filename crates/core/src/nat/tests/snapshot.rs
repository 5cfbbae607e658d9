//! Flows across a restart, through the journal.

use super::*;
use crate::journal::{Record, State, Timestamp, encode, replay};

/// Returns the state of a NAT after it was written to a journal that ends, and read.
pub(super) fn stopped(nat: &Nat, now: Instant) -> State {
    let mut records = Vec::new();
    nat.report_all(now, &mut |record| records.push(record));
    records.push(Record::end());
    let mut journal = encode::head().to_vec();
    encode::append(&mut journal, Timestamp(1 << 40), &records);
    replay(&journal).unwrap().state
}

fn busy<F: AddressFamily>() -> World<F> {
    let mut w = World::<F>::new(settings());
    for port in 0..40 {
        w.send(udp(at(F::ALICE, 5000 + port), at(F::SERVER, 7053), b"x"));
        w.send(tcp(
            at(F::BOB, 5000 + port),
            at(F::SERVER, 445),
            (SYN, 1, 0),
            &[],
            b"",
        ));
        w.advance(Duration::from_secs(3));
    }
    w.send(udp(at(F::ALICE, 5000), at(F::OTHER, 7053), b"x"));
    w.send(ping(F::BOB, F::SERVER, false, 9));
    let port = w.flow_of(at(F::BOB, 5000)).unwrap().port;
    w.receive(tcp(
        at(F::SERVER, 445),
        at(F::LAN, port),
        (SYN | ACK, 7, 2),
        &[],
        b"",
    ))
    .unwrap();
    w.send(tcp(
        at(F::BOB, 5000),
        at(F::SERVER, 445),
        (ACK, 2, 8),
        &[],
        b"data",
    ));
    w.advance(3 * MINUTE + Duration::from_secs(40));
    w
}

/// Returns the flows without their ids, which differ after a restart.
fn describe_flows(nat: &Nat, now: Instant) -> Vec<String> {
    let mut all: Vec<_> = nat
        .flows(now)
        .map(|f| {
            let Flow { protocol, inside, port, remote, state, idle, sent, received, .. } = f;
            format!("{protocol:?} {inside} {port} {remote} {state:?} {idle:?} {sent:?} {received:?} {:?}",
                    nat.sequence(f.id))
        })
        .collect();
    all.sort();
    all
}

/// Restores the state of these clients in a new NAT.
fn restored<F: AddressFamily>(
    settings: Settings,
    state: State,
    is_ours: impl Fn(IpAddr) -> bool,
    age: Duration,
    now: Instant,
) -> Result<World<F>, RestoreError> {
    let mut nat = Nat::new(settings, 4711, now);
    let snapshot = state.nat_snapshot(&is_ours);
    nat.restore(snapshot, &OneAddressPeers, is_ours, age, now)?;
    let mut w = World::new(self::settings());
    (w.nat, w.now) = (nat, now);
    Ok(w)
}

/// Returns the owners of blocks by the events of the NAT.
fn block_owners(nat: &mut Nat) -> Vec<(IpAddr, u16, u16)> {
    let mut all = Vec::new();
    while let Some(event) = nat.poll_block() {
        let block = (event.client, event.first_port, event.last_port);
        match event.given {
            true => all.push(block),
            false => all.retain(|held| *held != block),
        }
    }
    all.sort();
    all
}

fn the_state_survives_a_restart<F: AddressFamily>() {
    let mut before = busy::<F>();
    let read = stopped(&before.nat, before.now);
    // The new process has a different clock.
    let now = before.now + 1000 * MINUTE;
    let mut after = restored::<F>(settings(), read, |_| true, Duration::ZERO, now).unwrap();
    assert_eq!(block_owners(&mut before.nat), block_owners(&mut after.nat));
    assert!(before.nat.ports.quarantined().next().is_some());
    for step in [0, 1, 20, 37, 60, 120, 200, 8000] {
        before.advance(Duration::from_secs(step));
        after.advance(Duration::from_secs(step));
        let flows_before = describe_flows(&before.nat, before.now);
        assert_eq!(flows_before, describe_flows(&after.nat, after.now));
        assert_eq!(
            before.nat.next_timeout().map(|t| t - before.now),
            after.nat.next_timeout().map(|t| t - after.now),
        );
    }
    assert_eq!(after.nat.clients.iter().count(), 0);
}

fn a_restored_connection_continues_and_its_port_stays_reserved<F: AddressFamily>() {
    let before = busy::<F>();
    let port = before.flow_of(at(F::BOB, 5000)).unwrap().port;
    let snapshot = stopped(&before.nat, before.now);
    let after = restored::<F>(settings(), snapshot, |_| true, Duration::ZERO, before.now);
    let mut after = after.unwrap();
    let answer = tcp(
        at(F::SERVER, 445),
        at(F::LAN, port),
        (ACK, 8, 6),
        &[],
        b"data",
    );
    assert_eq!(after.receive(answer), Some(at(F::BOB, 5000)));
    assert_eq!(
        after.send(tcp(
            at(F::BOB, 5000),
            at(F::SERVER, 445),
            (ACK, 6, 12),
            &[],
            b""
        )),
        port
    );
    for client in [F::ALICE, F::BOB] {
        for p in 0..200 {
            let new = after.send(tcp(
                at(client, 20000 + p),
                at(F::SERVER, 445),
                (SYN, 1, 0),
                &[],
                b"",
            ));
            assert_ne!(new, port);
        }
    }
}

fn timers_include_the_time_between_snapshot_and_restore<F: AddressFamily>() {
    for age in [20, 37, 60, 200, 8000].map(Duration::from_secs) {
        let mut before = busy::<F>();
        let snapshot = stopped(&before.nat, before.now);
        before.advance(age);
        let after = restored::<F>(settings(), snapshot, |_| true, age, before.now);
        let mut after = after.unwrap();
        let flows_before = describe_flows(&before.nat, before.now);
        assert_eq!(
            flows_before,
            describe_flows(&after.nat, after.now),
            "{age:?}"
        );
        after.advance(Duration::from_secs(8000));
        assert_eq!(after.nat.clients.iter().count(), 0);
        assert_eq!(block_owners(&mut after.nat), []);
    }
}

fn removed_clients_are_not_restored<F: AddressFamily>() {
    let before = busy::<F>();
    let snapshot = stopped(&before.nat, before.now);
    let is_bob = |client: IpAddr| client == F::BOB;
    let after = restored::<F>(settings(), snapshot, is_bob, Duration::ZERO, before.now);
    let mut after = after.unwrap();
    let bob_port = |nat: &Nat| {
        let mut all = describe_flows(nat, before.now);
        all.retain(|flow| flow.contains(&F::BOB.to_string()));
        all
    };
    assert!(!bob_port(&before.nat).is_empty());
    assert_eq!(bob_port(&before.nat), describe_flows(&after.nat, after.now));
    let reported = block_owners(&mut after.nat);
    assert!(!reported.is_empty() && reported.iter().all(|(client, ..)| is_bob(*client)));
    // Alice can connect again, and all state is released in the end.
    after.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    after.advance(8000 * Duration::from_secs(1));
    assert_eq!(after.nat.clients.iter().count(), 0);
}

fn a_contradictory_snapshot_is_refused<F: AddressFamily>() {
    let w = busy::<F>();
    let state = stopped(&w.nat, w.now);
    let restore = |settings: Settings, change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = state.nat_snapshot(|_| true);
        change(&mut snapshot);
        let mut nat = Nat::new(settings, 4711, w.now);
        let peers = &OneAddressPeers;
        nat.restore(snapshot, peers, |_| true, Duration::ZERO, w.now)
            .err()
    };
    assert_eq!(restore(settings(), &|_| ()), None);
    let mut elsewhere = settings();
    match F::LAN {
        IpAddr::V4(_) => elsewhere.address = Ipv4Addr::LOCALHOST,
        IpAddr::V6(_) => elsewhere.address6 = Some(Ipv6Addr::LOCALHOST),
    }
    assert_eq!(
        restore(elsewhere, &|_| ()),
        Some(RestoreError::Address(F::LAN))
    );
    let small = Settings {
        blocks: 0..1,
        ..settings()
    };
    let error = restore(small, &|_| ());
    assert!(matches!(error, Some(RestoreError::Block(_))));
    let error = restore(settings(), &|snapshot| {
        let BlockRecord {
            first_port,
            last_port,
            client,
            lan,
        } = snapshot.blocks[0];
        snapshot.blocks.push(BlockRecord {
            first_port,
            last_port,
            client,
            lan,
        });
    });
    assert!(matches!(error, Some(RestoreError::Block(_))));
    let error = restore(settings(), &|snapshot| {
        snapshot.blocks[0].last_port = snapshot.blocks[0].first_port + 1;
    });
    assert!(matches!(error, Some(RestoreError::Block(_))));
    let error = restore(settings(), &|snapshot| snapshot.blocks.clear());
    assert!(matches!(error, Some(RestoreError::Mapping(..))));
    let error = restore(settings(), &|snapshot| {
        let port = snapshot.mappings[0].port;
        snapshot
            .mappings
            .iter_mut()
            .for_each(|mapping| mapping.port = port);
    });
    assert!(matches!(error, Some(RestoreError::Mapping(..))));
    let error = restore(settings(), &|snapshot| {
        snapshot.mappings[0].sessions.clear()
    });
    assert!(matches!(error, Some(RestoreError::Mapping(..))));
}

/// A crash leaves no time of the last packet: idle times of open flows restart with the end of the journal.
fn after_a_crash_flows_are_as_young_as_the_journal<F: AddressFamily>() {
    let before = busy::<F>();
    let mut records = Vec::new();
    before
        .nat
        .report_all(before.now, &mut |record| records.push(record));
    let mut journal = encode::head().to_vec();
    encode::append(&mut journal, Timestamp(1000), &records);
    encode::append(&mut journal, Timestamp(61_000), []);
    let state = replay(&journal).unwrap().state;
    assert_eq!(state.last(), Timestamp(61_000));
    let age = Duration::from_secs(7);
    let after = restored::<F>(settings(), state, |_| true, age, before.now).unwrap();
    assert_eq!(
        after.nat.flow_count(),
        before.nat.flow_count(),
        "none expired in the minute without changes"
    );
    assert!(after.nat.flows(after.now).all(|flow| flow.idle == age));
}

/// No packet refreshes a closed connection, so that its idle time is known after a crash too.
fn a_closed_connection_ends_although_each_run_is_killed<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 445));
    let port = w.send(tcp(client, server, (SYN, 1, 0), &[], b""));
    let outside = at(F::LAN, port);
    for (flags, seq, ack) in [(SYN | ACK, 7, 2), (FIN | ACK, 8, 2)] {
        w.receive(tcp(server, outside, (flags, seq, ack), &[], b""));
    }
    w.send(tcp(client, server, (FIN | ACK, 2, 9), &[], b""));
    assert_eq!(
        w.nat.flows(w.now).next().unwrap().state,
        Some(TcpState::Closing)
    );
    let mut time = 1000;
    for _ in 0..4 {
        let mut records = Vec::new();
        w.nat.report_all(w.now, &mut |record| records.push(record));
        let mut journal = encode::head().to_vec();
        encode::append(&mut journal, Timestamp(time), &records);
        w.advance(MINUTE);
        time += 60_000;
        encode::append(&mut journal, Timestamp(time), []);
        let mut state = replay(&journal).unwrap().state;
        // The next run begins its journal with the state, before it takes over.
        let mut next = encode::head().to_vec();
        state.append_to(&mut next);
        let state = replay(&next).unwrap().state;
        w = restored(settings(), state, |_| true, Duration::ZERO, w.now).unwrap();
    }
    w.advance(Duration::from_secs(1));
    assert_eq!(w.nat.flow_count(), 0);
}

both_families! {
    a_closed_connection_ends_although_each_run_is_killed,
    the_state_survives_a_restart,
    a_restored_connection_continues_and_its_port_stays_reserved,
    timers_include_the_time_between_snapshot_and_restore,
    removed_clients_are_not_restored,
    a_contradictory_snapshot_is_refused,
    after_a_crash_flows_are_as_young_as_the_journal,
}
