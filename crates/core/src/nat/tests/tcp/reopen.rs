//! Connections that a client and a server open between the same ends after both lost their state.

use super::*;
use vcgate_wire::tcp::SeqNumber;

/// Initial sequence numbers far before and far after those of the first connection.
const OTHER_ISNS: [(u32, u32); 2] = [(3_000_000_000, 4_000_000_000), (1_000_000_000, 1 << 30)];

fn a_client_and_a_server_that_both_lost_their_connection_open_another<F: AddressFamily>() {
    for (client, server) in OTHER_ISNS {
        let mut w = World::<F>::new(settings());
        let port = w.connect();
        let flow = w.flow();
        assert_eq!(w.client(SYN, client, 0), port);
        assert_eq!(
            w.state(),
            Some(TcpState::Established),
            "the server has not answered yet"
        );
        assert_eq!(
            w.server(port, SYN | ACK, server, client + 1),
            Some(alice_endpoint::<F>())
        );
        assert_eq!(w.state(), Some(TcpState::Opening));
        w.client(ACK, client + 1, server + 1);
        assert_eq!(w.state(), Some(TcpState::Established));
        // A network that duplicates packets delivers the SYN-ACK again.
        w.server(port, SYN | ACK, server, client + 1).unwrap();
        assert_eq!(w.state(), Some(TcpState::Established));
        assert_eq!(
            w.nat.sequence(flow),
            Some(Sequence {
                client_next: Some(SeqNumber(client + 1)),
                client_expects: Some(SeqNumber(server + 1)),
                server_next: Some(SeqNumber(server + 1)),
                server_expects: Some(SeqNumber(client + 1)),
            })
        );
        w.server(port, RST, 501, 0).unwrap();
        assert_eq!(
            w.state(),
            Some(TcpState::Established),
            "a RST of the old connection"
        );
        w.server(port, RST, server + 1, 0).unwrap();
        assert_eq!(w.state(), Some(TcpState::Reset));
        w.assert_expires_after(TRANSITORY);
    }
}

fn rfc5382_req5_a_reopened_connection_that_the_client_does_not_complete_lives_4_minutes<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.client(SYN, 7000, 0);
    w.server(port, SYN | ACK, 9000, 7001).unwrap();
    w.assert_expires_after(TRANSITORY);
}

fn an_old_or_forged_handshake_does_not_reopen_a_connection<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    let flow = w.flow();
    let at = w.nat.sequence(flow);
    let unmoved = |w: &World<F>, what: &str| {
        assert_eq!(w.state(), Some(TcpState::Established), "{what}");
        assert_eq!(w.nat.sequence(flow), at, "{what}");
    };
    w.client(SYN, 100, 0);
    w.server(port, SYN | ACK, 500, 101).unwrap();
    unmoved(&w, "the first handshake again");
    w.server(port, SYN | ACK, 3_000_000_000, 101).unwrap();
    unmoved(&w, "a forged answer to the first SYN");
    w.client(SYN, 2_000_000_000, 0);
    w.server(port, SYN | ACK, 500, 101).unwrap();
    unmoved(&w, "an old answer");
    for ack in [2_000_000_000, 2_000_000_002, 0] {
        w.server(port, SYN | ACK, 3_000_000_000, ack).unwrap();
        unmoved(&w, "an answer to another SYN");
    }
    w.server(port, SYN, 3_000_000_000, 0).unwrap();
    unmoved(&w, "no answer");
    // A server that still has the connection challenges the SYN (RFC 5961 section 4), and the client resets it.
    w.server(port, ACK, 501, 101).unwrap();
    unmoved(&w, "a challenge");
    w.client(RST, 101, 0);
    assert_eq!(w.state(), Some(TcpState::Reset));
    w.client(SYN, 2_000_000_000, 0);
    w.server(port, SYN | ACK, 3_000_000_000, 2_000_000_001)
        .unwrap();
    w.client(ACK, 2_000_000_001, 3_000_000_001);
    assert_eq!(w.state(), Some(TcpState::Established));
}

both_families! {
    a_client_and_a_server_that_both_lost_their_connection_open_another,
    rfc5382_req5_a_reopened_connection_that_the_client_does_not_complete_lives_4_minutes,
    an_old_or_forged_handshake_does_not_reopen_a_connection,
}
