//! The lifetimes of connections, and the segments that close them.

use super::*;

fn rfc5382_req5_an_established_connection_lives_2_hours_and_4_minutes<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.advance(ESTABLISHED - MINUTE);
    w.server(port, ACK, 501, 101).unwrap();
    w.advance(ESTABLISHED - MINUTE);
    w.client(ACK, 101, 501);
    w.assert_expires_after(ESTABLISHED);
}

fn rfc5382_req5_rfc7857_a_half_open_connection_lives_4_minutes<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.client(SYN, 100, 0);
    w.advance(3 * MINUTE);
    w.server(port, SYN | ACK, 500, 101).unwrap();
    w.assert_expires_after(MINUTE);
}

fn rfc5382_req5_a_closed_connection_lives_4_minutes_whatever_arrives<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.client(FIN | ACK, 101, 501);
    assert_eq!(w.state(), Some(TcpState::Established));
    w.advance(60 * MINUTE);
    w.server(port, FIN | ACK, 501, 102).unwrap();
    w.client(ACK, 102, 502);
    assert_eq!(w.state(), Some(TcpState::Closing));
    w.advance(2 * MINUTE);
    w.client(ACK, 102, 502);
    w.server(port, FIN | ACK, 501, 102).unwrap();
    w.server(port, FIN | ACK, 900, 102).unwrap();
    w.assert_expires_after(TRANSITORY - 2 * MINUTE);
}

fn rfc5382_req5_a_forged_or_early_fin_does_not_close<F: AddressFamily>() {
    for seq in [501 + 1000, 501 + (1 << 23), 400, 501 + (1 << 30)] {
        let mut w = World::<F>::new(settings());
        let port = w.connect();
        w.client(FIN | ACK, 101, 501);
        w.server(port, FIN | ACK, seq, 102).unwrap();
        assert_eq!(w.state(), Some(TcpState::Established));
        w.advance(60 * MINUTE);
        // The server continues to send data and acknowledgements.
        w.receive(tcp(
            server_endpoint::<F>(),
            at(F::LAN, port),
            (ACK, 501, 102),
            &[],
            &[0; 50],
        ))
        .unwrap();
        w.client(ACK, 102, 551);
        assert_eq!(w.state(), Some(TcpState::Established));
        w.server(port, FIN | ACK, 551, 102).unwrap();
        w.client(ACK, 102, 552);
        assert_eq!(w.state(), Some(TcpState::Closing));
    }
}

fn rfc5382_req5_the_lan_alone_does_not_refresh_a_closed_connection<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.server(port, RST, 501, 0).unwrap();
    w.advance(3 * MINUTE);
    for seq in [7000, 8000] {
        assert_eq!(w.server(port, SYN, seq, 0), Some(alice_endpoint::<F>()));
        assert_eq!(w.state(), Some(TcpState::Opening));
    }
    w.assert_expires_after(MINUTE);
    // The client's answer refreshes it.
    let port = w.connect();
    w.server(port, RST, 501, 0).unwrap();
    w.advance(3 * MINUTE);
    w.server(port, SYN, 7000, 0).unwrap();
    w.client(SYN | ACK, 100, 7001);
    w.assert_expires_after(TRANSITORY);
}

fn rfc7857_a_reset_is_translated_and_the_session_kept_4_minutes<F: AddressFamily>() {
    for from_client in [true, false] {
        let mut w = World::<F>::new(settings());
        let port = w.connect();
        if from_client {
            w.client(RST, 101, 0);
        } else {
            w.server(port, RST, 501, 0).unwrap();
        }
        assert_eq!(w.state(), Some(TcpState::Reset));
        w.assert_expires_after(TRANSITORY);
    }
}

fn rfc7857_rfc5961_only_an_exact_sequence_number_closes<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    for seq in [500, 502, 0, 501 + 1000] {
        assert_eq!(
            w.server(port, RST, seq, 0),
            Some(alice_endpoint::<F>()),
            "translated nevertheless"
        );
        assert_eq!(w.state(), Some(TcpState::Established));
    }
    w.server(port, RST, 501, 0).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

fn rfc7857_rfc5961_a_forged_number_far_away_does_not_prepare_a_reset<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    for ahead in [1 << 10, 1 << 23, 1 << 25] {
        w.server(port, ACK, 501 + ahead, 101).unwrap();
        w.server(port, RST, 501 + ahead, 0).unwrap();
        assert_eq!(w.state(), Some(TcpState::Established));
    }
}

fn rfc7857_a_client_s_reset_counts_while_its_data_is_in_flight<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    w.connect();
    w.send(tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (ACK, 101, 501),
        &[],
        &[0; 1000],
    ));
    w.client(RST, 1101, 0);
    assert_eq!(w.state(), Some(TcpState::Reset));
}

fn rfc7857_an_end_that_continues_to_send_did_not_reset<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.server(port, RST, 501, 0).unwrap();
    w.client(ACK, 101, 501);
    assert_eq!(w.state(), Some(TcpState::Reset));
    w.server(port, ACK, 501, 101).unwrap();
    assert_eq!(w.state(), Some(TcpState::Established));
    w.assert_expires_after(ESTABLISHED);
}

fn a_flow_that_was_marked_reset_is_closed_and_reusable<F: AddressFamily>() {
    let mut world = World::<F>::new(settings());
    let port = world.connect();
    let old = world.flow();
    world.nat.mark_reset(old, world.now);
    assert_eq!(world.state(), Some(TcpState::Reset));
    // Late segments of the server still reach the client and do not reopen the flow.
    assert_eq!(
        world.server(port, ACK, 501, 101),
        Some(alice_endpoint::<F>())
    );
    assert_eq!(world.state(), Some(TcpState::Reset));
    world.assert_expires_after(TRANSITORY);
    let port = world.connect();
    world.nat.mark_reset(old, world.now);
    assert_eq!(world.state(), Some(TcpState::Established), "another flow");
    world.nat.mark_reset(world.flow(), world.now);
    assert_eq!(world.client(SYN, 9000, 0), port);
    assert_eq!(world.state(), Some(TcpState::Opening));
}

both_families! {
    rfc5382_req5_an_established_connection_lives_2_hours_and_4_minutes,
    rfc5382_req5_rfc7857_a_half_open_connection_lives_4_minutes,
    rfc5382_req5_a_closed_connection_lives_4_minutes_whatever_arrives,
    rfc5382_req5_a_forged_or_early_fin_does_not_close,
    rfc5382_req5_the_lan_alone_does_not_refresh_a_closed_connection,
    rfc7857_a_reset_is_translated_and_the_session_kept_4_minutes,
    rfc7857_rfc5961_only_an_exact_sequence_number_closes,
    rfc7857_rfc5961_a_forged_number_far_away_does_not_prepare_a_reset,
    rfc7857_a_client_s_reset_counts_while_its_data_is_in_flight,
    rfc7857_an_end_that_continues_to_send_did_not_reset,
    a_flow_that_was_marked_reset_is_closed_and_reusable,
}
