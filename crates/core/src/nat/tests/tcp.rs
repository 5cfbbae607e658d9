//! The requirements of RFC 5382 and 7857 (TCP).

use super::*;
use vcgate_wire::tcp::SeqNumber;

mod closing;
mod held_syns;
mod reopen;
mod unsolicited;

fn alice_endpoint<F: AddressFamily>() -> SocketAddr {
    at(F::ALICE, 5000)
}

fn server_endpoint<F: AddressFamily>() -> SocketAddr {
    at(F::SERVER, 445)
}

const TRANSITORY: Duration = Duration::from_secs(4 * 60);
const ESTABLISHED: Duration = Duration::from_secs(124 * 60);

impl<F: AddressFamily> World<F> {
    fn client(&mut self, flags: u8, seq: u32, ack: u32) -> u16 {
        self.send(tcp(
            alice_endpoint::<F>(),
            server_endpoint::<F>(),
            (flags, seq, ack),
            &[],
            b"",
        ))
    }

    fn server(&mut self, port: u16, flags: u8, seq: u32, ack: u32) -> Option<SocketAddr> {
        self.receive(tcp(
            server_endpoint::<F>(),
            at(F::LAN, port),
            (flags, seq, ack),
            &[],
            b"",
        ))
    }

    /// Opens a connection; the client's next number is 101, the server's 501.
    fn connect(&mut self) -> u16 {
        let port = self.client(SYN, 100, 0);
        assert_eq!(
            self.server(port, SYN | ACK, 500, 101),
            Some(alice_endpoint::<F>())
        );
        assert_eq!(self.state(), Some(TcpState::Opening));
        self.client(ACK, 101, 501);
        assert_eq!(self.state(), Some(TcpState::Established));
        port
    }

    fn state(&self) -> Option<TcpState> {
        self.flow_of(alice_endpoint::<F>()).and_then(|f| f.state)
    }

    fn flow(&self) -> crate::ids::FlowId {
        self.flow_of(alice_endpoint::<F>()).unwrap().id
    }

    fn assert_expires_after(&mut self, time: Duration) {
        self.advance(time - Duration::from_millis(1));
        assert!(self.state().is_some());
        self.advance(Duration::from_millis(1));
        assert_eq!(self.state(), None);
    }
}

fn rfc5382_req2_simultaneous_open<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.client(SYN, 100, 0);
    assert_eq!(w.server(port, SYN, 500, 0), Some(alice_endpoint::<F>()));
    assert_eq!(w.state(), Some(TcpState::Opening));
    w.client(SYN | ACK, 100, 501);
    assert_eq!(
        w.server(port, SYN | ACK, 500, 101),
        Some(alice_endpoint::<F>())
    );
    assert_eq!(w.state(), Some(TcpState::Established));
    assert_eq!(w.nat.flows(w.now).count(), 1);
}

/// A segment: the sender, flags, sequence and acknowledgement numbers.
type Sent = (Side, u8, u32, u32);

fn rfc5382_req2_every_valid_sequence_passes_and_is_tracked<F: AddressFamily>() {
    let psh = ACK | 0x08;
    let open = [
        (Side::Inside, SYN, 100, 0),
        (Side::Lan, SYN | ACK, 500, 101),
        (Side::Inside, ACK, 101, 501),
    ];
    let sequences: [(&[Sent], TcpState); 7] = [
        // Half closed: the other end continues (RFC 9293 section 3.6).
        (
            &[
                (Side::Inside, FIN | ACK, 101, 501),
                (Side::Lan, ACK, 501, 102),
                (Side::Lan, psh, 501, 102),
                (Side::Inside, ACK, 102, 501),
            ],
            TcpState::Established,
        ),
        // The other end closes too.
        (
            &[
                (Side::Lan, FIN | ACK, 501, 101),
                (Side::Inside, psh, 101, 502),
                (Side::Inside, FIN | ACK, 101, 502),
                (Side::Lan, ACK, 502, 102),
            ],
            TcpState::Closing,
        ),
        // Simultaneous close (RFC 9293 figure 13).
        (
            &[
                (Side::Inside, FIN | ACK, 101, 501),
                (Side::Lan, FIN | ACK, 501, 101),
                (Side::Inside, ACK, 102, 502),
                (Side::Lan, ACK, 502, 102),
            ],
            TcpState::Closing,
        ),
        // A FIN with data, its retransmission, and a late acknowledgement.
        (
            &[
                (Side::Inside, FIN | psh, 101, 501),
                (Side::Inside, FIN | psh, 101, 501),
                (Side::Lan, psh, 501, 101),
                (Side::Lan, FIN | ACK, 501, 102),
                (Side::Inside, ACK, 102, 502),
            ],
            TcpState::Closing,
        ),
        // A keep-alive with the previous number (RFC 9293 section 3.8.4).
        (
            &[(Side::Lan, ACK, 500, 101), (Side::Inside, ACK, 101, 501)],
            TcpState::Established,
        ),
        // The segments of the handshake are retransmitted.
        (
            &[
                (Side::Lan, SYN | ACK, 500, 101),
                (Side::Inside, SYN, 100, 0),
                (Side::Inside, ACK, 101, 501),
            ],
            TcpState::Established,
        ),
        // Urgent data.
        (
            &[
                (Side::Inside, psh | 0x20, 101, 501),
                (Side::Lan, ACK, 501, 101),
            ],
            TcpState::Established,
        ),
    ];
    for (sequence, state) in sequences {
        let mut w = World::<F>::new(settings());
        let mut port = None;
        for (from, flags, seq, ack) in open.iter().chain(sequence).copied() {
            if from == Side::Inside {
                let now = w.client(flags, seq, ack);
                assert_eq!(*port.get_or_insert(now), now);
            } else {
                assert_eq!(
                    w.server(port.unwrap(), flags, seq, ack),
                    Some(alice_endpoint::<F>())
                );
            }
        }
        assert_eq!(w.state(), Some(state), "{sequence:?}");
        assert_eq!(w.nat.flows(w.now).count(), 1);
    }
}

fn a_refused_connection_is_reset<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.client(SYN, 100, 0);
    w.server(port, RST | ACK, 0, 77).unwrap();
    assert_eq!(
        w.state(),
        Some(TcpState::Opening),
        "acknowledges another number"
    );
    w.server(port, RST | ACK, 0, 101).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

fn an_end_that_retries_may_choose_another_initial_number<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.client(SYN, 100, 0);
    w.client(SYN, 4_000_000_000, 0);
    w.server(port, RST | ACK, 0, 4_000_000_001).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

fn a_new_connection_in_the_place_of_an_old_one_is_another_flow<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    let old = w.flow_of(alice_endpoint::<F>()).unwrap().id;
    w.client(RST, 101, 0);
    let mut syn = tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (SYN, 7000, 0),
        &[],
        b"",
    );
    let Outcome::Forward(Some(flow)) = w.outbound(&mut syn) else {
        panic!()
    };
    assert_ne!(flow.id, old);
    assert_eq!(w.nat.poll_closed(), Some(old));
    assert_eq!(ends(&syn).0.port(), port, "RFC 5382 REQ-1");
    assert_eq!(w.state(), Some(TcpState::Opening));
    w.assert_expires_after(TRANSITORY);
}

/// Runs RFC 9293 figure 9: the server still has a connection that the client has lost, and answers
/// the client's SYN for it. The session may be known or not, and the SYN may be retransmitted.
fn rfc9293_3_5_1_a_half_open_connection_is_replaced_by_the_next<F: AddressFamily>() {
    const OLD: (u32, u32) = (501, 101);
    for is_known in [true, false] {
        for resets in [&[0][..], &[1], &[0, 1]] {
            let mut w = World::<F>::new(settings());
            if is_known {
                w.connect();
            }
            for attempt in 0..=*resets.last().unwrap() {
                let port = w.client(SYN, 2_000_000_000, 0);
                assert_eq!(
                    w.server(port, ACK, OLD.0, OLD.1),
                    Some(alice_endpoint::<F>())
                );
                if resets.contains(&attempt) {
                    w.client(RST, OLD.1, 0);
                    assert_eq!(w.state(), Some(TcpState::Reset));
                }
            }
            let port = w.client(SYN, 2_000_000_000, 0);
            let accepted = w.server(port, SYN | ACK, 3_000_000_000, 2_000_000_001);
            assert_eq!(accepted, Some(alice_endpoint::<F>()));
            w.client(ACK, 2_000_000_001, 3_000_000_001);
            assert_eq!(w.state(), Some(TcpState::Established));
            let expected = Sequence {
                client_next: Some(SeqNumber(2_000_000_001)),
                client_expects: Some(SeqNumber(3_000_000_001)),
                server_next: Some(SeqNumber(3_000_000_001)),
                server_expects: Some(SeqNumber(2_000_000_001)),
            };
            assert_eq!(w.nat.sequence(w.flow()), Some(expected));
        }
    }
}

fn a_segment_without_a_session_passes_only_from_a_client<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(tcp(
        alice_endpoint::<F>(),
        at(F::SERVER, 1),
        (SYN, 1, 0),
        &[],
        b"",
    ));
    assert_eq!(w.server(port, ACK, 1, 1), None);
    assert_eq!(w.nat.counters().dropped(Reason::NoSession), 1);
    // A connection that is older than this NAT: the server resets it.
    assert_eq!(w.client(ACK, 9000, 8000), port);
    assert_eq!(w.server(port, RST, 8000, 0), Some(alice_endpoint::<F>()));
    // A client's RST does not open a session.
    let mut rst = tcp(
        at(F::ALICE, 5001),
        server_endpoint::<F>(),
        (RST, 1, 0),
        &[],
        b"",
    );
    assert_eq!(w.outbound(&mut rst), Outcome::Drop(Reason::NoSession));
}

fn sequence_numbers_are_the_next_that_both_ends_expect<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.connect();
    w.send(tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (ACK, 101, 501),
        &[],
        &[0; 1000],
    ));
    w.receive(tcp(
        server_endpoint::<F>(),
        at(F::LAN, port),
        (ACK, 501, 601),
        &[],
        &[0; 50],
    ))
    .unwrap();
    // A retransmission does not decrease a number.
    w.send(tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (ACK, 101, 501),
        &[],
        &[0; 500],
    ));
    let id = w.flow_of(alice_endpoint::<F>()).unwrap().id;
    assert_eq!(
        w.nat.sequence(id),
        Some(Sequence {
            client_next: Some(SeqNumber(1101)),
            client_expects: Some(SeqNumber(501)),
            server_next: Some(SeqNumber(551)),
            server_expects: Some(SeqNumber(601)),
        })
    );
}

fn mss_is_clamped_on_syns_both_ways_at_any_offset<F: AddressFamily>() {
    let mss = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // At an even and at an odd offset.
    let most = 1420 - 20 - F::IP as u16;
    for (options, at_) in [
        (&[2, 4, 5, 0xB4][..], F::IP + 22),
        (&[1, 2, 4, 5, 0xB4, 1, 0, 0], F::IP + 23),
    ] {
        let mut w = World::<F>::new(settings());
        let mut syn = tcp(
            alice_endpoint::<F>(),
            server_endpoint::<F>(),
            (SYN, 1, 0),
            options,
            b"",
        );
        assert!(matches!(w.outbound(&mut syn), Outcome::Forward(_)));
        assert_checksums(&syn);
        assert_eq!(mss(&syn, at_), most);
        let port = ends(&syn).0.port();
        let mut answer = tcp(
            server_endpoint::<F>(),
            at(F::LAN, port),
            (SYN | ACK, 1, 2),
            options,
            b"",
        );
        assert!(matches!(w.inbound(&mut answer), Outcome::Forward(_)));
        assert_checksums(&answer);
        assert_eq!(mss(&answer, at_), most);
    }
    // A smaller MSS is not raised, and segments without SYN are not modified.
    let mut w = World::<F>::new(settings());
    let mut small = tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (SYN, 1, 0),
        &[2, 4, 2, 0],
        b"",
    );
    w.outbound(&mut small);
    assert_eq!(mss(&small, F::IP + 22), 512);
    let mut data = tcp(
        alice_endpoint::<F>(),
        server_endpoint::<F>(),
        (ACK, 2, 2),
        &[2, 4, 5, 0xB4],
        b"",
    );
    w.outbound(&mut data);
    assert_eq!(mss(&data, F::IP + 22), 1460);
    // Malformed options are not modified.
    for options in [
        [2, 0, 0, 0],
        [3, 1, 2, 4],
        [2, 4, 5, 0xB4].map(|b| b | 8),
        [1, 1, 2, 4],
    ] {
        let mut p = tcp(
            at(F::ALICE, 1),
            server_endpoint::<F>(),
            (SYN, 1, 0),
            &options,
            b"",
        );
        w.outbound(&mut p);
        assert_checksums(&p);
        assert_eq!(p[F::IP + 20..F::IP + 24], options);
    }
}

both_families! {
    rfc5382_req2_simultaneous_open,
    rfc5382_req2_every_valid_sequence_passes_and_is_tracked,
    a_refused_connection_is_reset,
    an_end_that_retries_may_choose_another_initial_number,
    a_new_connection_in_the_place_of_an_old_one_is_another_flow,
    rfc9293_3_5_1_a_half_open_connection_is_replaced_by_the_next,
    a_segment_without_a_session_passes_only_from_a_client,
    sequence_numbers_are_the_next_that_both_ends_expect,
    mss_is_clamped_on_syns_both_ways_at_any_offset,
}
