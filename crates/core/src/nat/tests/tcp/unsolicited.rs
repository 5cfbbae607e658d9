//! Segments of the LAN that belong to no session, and connections whose session was closed.

use super::*;

/// Sends a segment of the server to a port; returns the numbers of the reset that answers it.
fn reset_of<F: AddressFamily>(
    w: &mut World<F>,
    port: u16,
    segment: (u8, u32, u32),
    payload: &[u8],
) -> Option<(u8, u32, u32)> {
    let from = server_endpoint::<F>();
    let mut bytes = tcp(from, at(F::LAN, port), segment, &[], payload);
    assert!(matches!(w.inbound(&mut bytes), Outcome::Drop(_)));
    let DeferredPacket::ToLan(reset) = w.nat.poll_deferred()? else {
        panic!("not for the LAN");
    };
    assert_checksums(&reset);
    assert_eq!(ends(&reset), (at(F::LAN, port), from));
    let headers = Headers::parse(&reset).unwrap();
    let tcp = TcpPacket::new_checked(&reset[headers.l4..]).unwrap();
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && tcp.payload().is_empty());
    let ack = tcp.ack().then(|| tcp.ack_number().0 as u32);
    let flags = if ack.is_some() { ACK } else { 0 };
    Some((flags, tcp.seq_number().0 as u32, ack.unwrap_or(0)))
}

fn rfc9293_a_segment_of_no_connection_is_reset_as_by_a_host<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let reset = |w: &mut World<F>, segment, payload| reset_of(w, 5555, segment, payload);
    // With an acknowledgement: at the number that the sender expects.
    assert_eq!(reset(&mut w, (ACK, 500, 77), b"abc"), Some((0, 77, 0)));
    assert_eq!(reset(&mut w, (SYN | ACK, 500, 77), b""), Some((0, 77, 0)));
    assert_eq!(reset(&mut w, (FIN | ACK, 500, 77), b""), Some((0, 77, 0)));
    // Without: all of the segment is acknowledged.
    assert_eq!(reset(&mut w, (0, u32::MAX, 0), b"abc"), Some((ACK, 0, 2)));
    assert_eq!(reset(&mut w, (FIN, 500, 0), b"abc"), Some((ACK, 0, 504)));
    // A reset is never answered.
    assert_eq!(reset(&mut w, (RST, 500, 0), b""), None);
    assert_eq!(reset(&mut w, (RST | ACK, 500, 77), b""), None);
    assert_eq!(w.nat.counters().refused, 5);
    assert_eq!(w.nat.counters().dropped(Reason::NoMapping), 7);
}

fn a_segment_of_another_connection_of_a_mapped_port_is_reset<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(tcp(
        alice_endpoint::<F>(),
        at(F::OTHER, 1),
        (SYN, 1, 0),
        &[],
        b"",
    ));
    assert_eq!(
        reset_of(&mut w, port, (ACK, 500, 77), b""),
        Some((0, 77, 0))
    );
    assert_eq!(w.nat.counters().dropped(Reason::Filtered), 1);
    w.send(tcp(
        alice_endpoint::<F>(),
        at(F::SERVER, 1),
        (SYN, 1, 0),
        &[],
        b"",
    ));
    assert_eq!(
        reset_of(&mut w, port, (ACK, 500, 77), b""),
        Some((0, 77, 0))
    );
    assert_eq!(w.nat.counters().dropped(Reason::NoSession), 1);
    // The other connections of the port are not affected.
    assert_eq!(w.nat.flows(w.now).count(), 2);
}

fn segments_of_no_connection_can_be_dropped<F: AddressFamily>() {
    let on_unsolicited = OnUnsolicited::Drop;
    let mut w = World::<F>::new(Settings {
        on_unsolicited,
        ..settings()
    });
    assert_eq!(reset_of(&mut w, 5555, (ACK, 500, 77), b""), None);
}

fn resets_of_segments_of_no_connection_are_limited_for_all_senders<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let segment = |port| tcp(at(F::OTHER, port), at(F::LAN, 5555), (ACK, 1, 2), &[], b"");
    for port in 0..5000 {
        assert_eq!(
            w.inbound(&mut segment(port)),
            Outcome::Drop(Reason::NoMapping)
        );
    }
    let resets = std::iter::from_fn(|| w.nat.poll_deferred()).count();
    assert_eq!(resets, 1000);
    w.advance(Duration::from_millis(1));
    assert!(reset_of(&mut w, 5555, (ACK, 500, 77), b"").is_some());
}

fn the_connections_of_a_removed_client_are_severed<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.server(port, ACK, 501, 150);
    // Nothing can be reset where a connection has ended, or where there is none.
    let ended = at(F::SERVER, 7);
    w.send(tcp(alice_endpoint::<F>(), ended, (SYN, 1, 0), &[], b""));
    w.receive(tcp(ended, at(F::LAN, port), (RST | ACK, 0, 2), &[], b""));
    w.send(udp(alice_endpoint::<F>(), at(F::OTHER, 9), b""));
    w.remove_peer_of(alice_endpoint::<F>().ip());
    let severed = w.nat.poll_severed().unwrap();
    assert_eq!(w.nat.poll_severed(), None);
    assert_eq!(severed.client, alice_endpoint::<F>());
    assert_eq!(severed.lan, at(F::LAN, port));
    assert_eq!(severed.server, server_endpoint::<F>());
    assert_eq!(
        severed.peer,
        OneAddressPeers.of(severed.client.ip()).unwrap()
    );
    let numbers = severed.sequence;
    assert_eq!(numbers.server_expects, Some(SeqNumber(150)));
    assert_eq!(numbers.client_expects, Some(SeqNumber(501)));
}

both_families! {
    rfc9293_a_segment_of_no_connection_is_reset_as_by_a_host,
    a_segment_of_another_connection_of_a_mapped_port_is_reset,
    segments_of_no_connection_can_be_dropped,
    resets_of_segments_of_no_connection_are_limited_for_all_senders,
    the_connections_of_a_removed_client_are_severed,
}
