//! RFC 5382 and 7857 (TCP), a requirement a test.

use super::*;

#[path = "anew.rs"]
mod anew;

const ALICES: SocketAddr = SocketAddr::new(ALICE, 5000);
const SERVERS: SocketAddr = SocketAddr::new(SERVER, 445);

const TRANSITORY: Duration = Duration::from_secs(4 * 60);
const ESTABLISHED: Duration = Duration::from_secs(124 * 60);

impl World {
    fn client(&mut self, flags: u8, seq: u32, ack: u32) -> u16 {
        self.leaves(tcp(ALICES, SERVERS, (flags, seq, ack), &[], b""))
    }

    fn server(&mut self, port: u16, flags: u8, seq: u32, ack: u32) -> Option<SocketAddr> {
        self.arrives(tcp(SERVERS, at(LAN, port), (flags, seq, ack), &[], b""))
    }

    /// A connection: the client's next number is 101, the server's 501.
    fn connected(&mut self) -> u16 {
        let port = self.client(SYN, 100, 0);
        assert_eq!(self.server(port, SYN | ACK, 500, 101), Some(ALICES));
        assert_eq!(self.state(), Some(TcpState::Opening));
        self.client(ACK, 101, 501);
        assert_eq!(self.state(), Some(TcpState::Established));
        port
    }

    fn state(&self) -> Option<TcpState> {
        self.flow_of(ALICES).and_then(|f| f.state)
    }

    fn flow(&self) -> crate::ids::FlowId {
        self.flow_of(ALICES).unwrap().id
    }

    fn lives(&mut self, time: Duration) {
        self.pass(time - Duration::from_millis(1));
        assert!(self.state().is_some());
        self.pass(Duration::from_millis(1));
        assert_eq!(self.state(), None);
    }
}

#[test]
fn rfc5382_req2_simultaneous_open() {
    let mut w = World::new(settings());
    let port = w.client(SYN, 100, 0);
    assert_eq!(w.server(port, SYN, 500, 0), Some(ALICES));
    assert_eq!(w.state(), Some(TcpState::Opening));
    w.client(SYN | ACK, 100, 501);
    assert_eq!(w.server(port, SYN | ACK, 500, 101), Some(ALICES));
    assert_eq!(w.state(), Some(TcpState::Established));
    assert_eq!(w.nat.flows(w.now).count(), 1);
}

/// Who sends, flags, and sequence and acknowledgement numbers.
type Sent = (bool, u8, u32, u32);
const CLIENT: bool = true;
const SERVER_END: bool = false;

#[test]
fn rfc5382_req2_every_valid_sequence_passes_and_is_understood() {
    let psh = ACK | 0x08;
    let open = [
        (CLIENT, SYN, 100, 0),
        (SERVER_END, SYN | ACK, 500, 101),
        (CLIENT, ACK, 101, 501),
    ];
    let sequences: [(&[Sent], TcpState); 7] = [
        // Half closed: the other end goes on (RFC 9293 section 3.6).
        (
            &[
                (CLIENT, FIN | ACK, 101, 501),
                (SERVER_END, ACK, 501, 102),
                (SERVER_END, psh, 501, 102),
                (CLIENT, ACK, 102, 501),
            ],
            TcpState::Established,
        ),
        // And closes at last.
        (
            &[
                (SERVER_END, FIN | ACK, 501, 101),
                (CLIENT, psh, 101, 502),
                (CLIENT, FIN | ACK, 101, 502),
                (SERVER_END, ACK, 502, 102),
            ],
            TcpState::Closing,
        ),
        // Both at once (RFC 9293 figure 13).
        (
            &[
                (CLIENT, FIN | ACK, 101, 501),
                (SERVER_END, FIN | ACK, 501, 101),
                (CLIENT, ACK, 102, 502),
                (SERVER_END, ACK, 502, 102),
            ],
            TcpState::Closing,
        ),
        // A FIN with data, again, and its acknowledgement late.
        (
            &[
                (CLIENT, FIN | psh, 101, 501),
                (CLIENT, FIN | psh, 101, 501),
                (SERVER_END, psh, 501, 101),
                (SERVER_END, FIN | ACK, 501, 102),
                (CLIENT, ACK, 102, 502),
            ],
            TcpState::Closing,
        ),
        // A keep-alive: one number back (RFC 9293 section 3.8.4).
        (
            &[(SERVER_END, ACK, 500, 101), (CLIENT, ACK, 101, 501)],
            TcpState::Established,
        ),
        // The handshake's segments come again.
        (
            &[
                (SERVER_END, SYN | ACK, 500, 101),
                (CLIENT, SYN, 100, 0),
                (CLIENT, ACK, 101, 501),
            ],
            TcpState::Established,
        ),
        // Urgent data.
        (
            &[(CLIENT, psh | 0x20, 101, 501), (SERVER_END, ACK, 501, 101)],
            TcpState::Established,
        ),
    ];
    for (sequence, state) in sequences {
        let mut w = World::new(settings());
        let mut port = None;
        for (from, flags, seq, ack) in open.iter().chain(sequence).copied() {
            if from == CLIENT {
                let now = w.client(flags, seq, ack);
                assert_eq!(*port.get_or_insert(now), now);
            } else {
                assert_eq!(w.server(port.unwrap(), flags, seq, ack), Some(ALICES));
            }
        }
        assert_eq!(w.state(), Some(state), "{sequence:?}");
        assert_eq!(w.nat.flows(w.now).count(), 1);
    }
}

#[test]
fn rfc5382_req5_an_established_connection_lives_2_hours_and_4_minutes() {
    let mut w = World::new(settings());
    let port = w.connected();
    w.pass(ESTABLISHED - MINUTE);
    w.server(port, ACK, 501, 101).unwrap();
    w.pass(ESTABLISHED - MINUTE);
    w.client(ACK, 101, 501);
    w.lives(ESTABLISHED);
}

#[test]
fn rfc5382_req5_rfc7857_a_half_open_connection_lives_4_minutes() {
    let mut w = World::new(settings());
    let port = w.client(SYN, 100, 0);
    w.pass(3 * MINUTE);
    w.server(port, SYN | ACK, 500, 101).unwrap();
    w.lives(MINUTE);
}

#[test]
fn rfc5382_req5_a_closed_connection_lives_4_minutes_whatever_comes() {
    let mut w = World::new(settings());
    let port = w.connected();
    w.client(FIN | ACK, 101, 501);
    assert_eq!(w.state(), Some(TcpState::Established));
    w.pass(60 * MINUTE);
    w.server(port, FIN | ACK, 501, 102).unwrap();
    w.client(ACK, 102, 502);
    assert_eq!(w.state(), Some(TcpState::Closing));
    w.pass(2 * MINUTE);
    w.client(ACK, 102, 502);
    w.server(port, FIN | ACK, 501, 102).unwrap();
    w.server(port, FIN | ACK, 900, 102).unwrap();
    w.lives(TRANSITORY - 2 * MINUTE);
}

#[test]
fn rfc5382_req5_a_forged_or_early_fin_does_not_close() {
    for seq in [501 + 1000, 501 + (1 << 23), 400, 501 + (1 << 30)] {
        let mut w = World::new(settings());
        let port = w.connected();
        w.client(FIN | ACK, 101, 501);
        w.server(port, FIN | ACK, seq, 102).unwrap();
        assert_eq!(w.state(), Some(TcpState::Established));
        w.pass(60 * MINUTE);
        // The server's data goes on, and so do its acknowledgements.
        w.arrives(tcp(SERVERS, at(LAN, port), (ACK, 501, 102), &[], &[0; 50]))
            .unwrap();
        w.client(ACK, 102, 551);
        assert_eq!(w.state(), Some(TcpState::Established));
        w.server(port, FIN | ACK, 551, 102).unwrap();
        w.client(ACK, 102, 552);
        assert_eq!(w.state(), Some(TcpState::Closing));
    }
}

#[test]
fn rfc7857_a_reset_is_translated_and_the_session_kept_4_minutes() {
    for from_client in [true, false] {
        let mut w = World::new(settings());
        let port = w.connected();
        if from_client {
            w.client(RST, 101, 0);
        } else {
            w.server(port, RST, 501, 0).unwrap();
        }
        assert_eq!(w.state(), Some(TcpState::Reset));
        w.lives(TRANSITORY);
    }
}

#[test]
fn rfc7857_rfc5961_only_an_exact_sequence_number_closes() {
    let mut w = World::new(settings());
    let port = w.connected();
    for seq in [500, 502, 0, 501 + 1000] {
        assert_eq!(
            w.server(port, RST, seq, 0),
            Some(ALICES),
            "translated all the same"
        );
        assert_eq!(w.state(), Some(TcpState::Established));
    }
    w.server(port, RST, 501, 0).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

#[test]
fn rfc7857_rfc5961_a_forged_number_far_away_does_not_prepare_a_reset() {
    let mut w = World::new(settings());
    let port = w.connected();
    for ahead in [1 << 10, 1 << 23, 1 << 25] {
        w.server(port, ACK, 501 + ahead, 101).unwrap();
        w.server(port, RST, 501 + ahead, 0).unwrap();
        assert_eq!(w.state(), Some(TcpState::Established));
    }
}

#[test]
fn rfc7857_a_client_s_reset_counts_while_its_data_is_on_its_way() {
    let mut w = World::new(settings());
    w.connected();
    w.leaves(tcp(ALICES, SERVERS, (ACK, 101, 501), &[], &[0; 1000]));
    w.client(RST, 1101, 0);
    assert_eq!(w.state(), Some(TcpState::Reset));
}

#[test]
fn rfc7857_who_goes_on_sending_did_not_reset() {
    let mut w = World::new(settings());
    let port = w.connected();
    w.server(port, RST, 501, 0).unwrap();
    w.client(ACK, 101, 501);
    assert_eq!(w.state(), Some(TcpState::Reset));
    w.server(port, ACK, 501, 101).unwrap();
    assert_eq!(w.state(), Some(TcpState::Established));
    w.lives(ESTABLISHED);
}

#[test]
fn a_refused_connection_is_reset() {
    let mut w = World::new(settings());
    let port = w.client(SYN, 100, 0);
    w.server(port, RST | ACK, 0, 77).unwrap();
    assert_eq!(
        w.state(),
        Some(TcpState::Opening),
        "acknowledges something else"
    );
    w.server(port, RST | ACK, 0, 101).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

#[test]
fn an_end_that_gave_up_and_tries_again_begins_with_another_number() {
    let mut w = World::new(settings());
    let port = w.client(SYN, 100, 0);
    w.client(SYN, 4_000_000_000, 0);
    w.server(port, RST | ACK, 0, 4_000_000_001).unwrap();
    assert_eq!(w.state(), Some(TcpState::Reset));
}

#[test]
fn a_new_connection_in_the_place_of_an_old_one_is_another_flow() {
    let mut w = World::new(settings());
    let port = w.connected();
    let old = w.flow_of(ALICES).unwrap().id;
    w.client(RST, 101, 0);
    let mut syn = tcp(ALICES, SERVERS, (SYN, 7000, 0), &[], b"");
    let Outcome::Forward(Some(flow)) = w.out(&mut syn) else {
        panic!()
    };
    assert_ne!(flow.id, old);
    assert_eq!(w.nat.poll_closed(), Some(old));
    assert_eq!(ends(&syn).0.port(), port, "RFC 5382 REQ-1");
    assert_eq!(w.state(), Some(TcpState::Opening));
    w.lives(TRANSITORY);
}

/// The server still has a connection that the client has forgotten, and answers the client's SYN for
/// that one; the session may be known or not, and the SYN may come again before the RST.
#[test]
fn rfc9293_3_5_1_a_half_open_connection_gives_way_to_the_next() {
    const OLD: (u32, u32) = (501, 101);
    for is_known in [true, false] {
        for resets in [&[0][..], &[1], &[0, 1]] {
            let mut w = World::new(settings());
            if is_known {
                w.connected();
            }
            for attempt in 0..=*resets.last().unwrap() {
                let port = w.client(SYN, 2_000_000_000, 0);
                assert_eq!(w.server(port, ACK, OLD.0, OLD.1), Some(ALICES));
                if resets.contains(&attempt) {
                    w.client(RST, OLD.1, 0);
                    assert_eq!(w.state(), Some(TcpState::Reset));
                }
            }
            let port = w.client(SYN, 2_000_000_000, 0);
            let accepted = w.server(port, SYN | ACK, 3_000_000_000, 2_000_000_001);
            assert_eq!(accepted, Some(ALICES));
            w.client(ACK, 2_000_000_001, 3_000_000_001);
            assert_eq!(w.state(), Some(TcpState::Established));
            let expected = Sequence {
                client_next: Some(2_000_000_001),
                client_expects: Some(3_000_000_001),
                server_next: Some(3_000_000_001),
                server_expects: Some(2_000_000_001),
            };
            assert_eq!(w.nat.sequence(w.flow()), Some(expected));
        }
    }
}

#[test]
fn rfc5382_req5_the_lan_alone_keeps_nothing_that_is_over() {
    let mut w = World::new(settings());
    let port = w.connected();
    w.server(port, RST, 501, 0).unwrap();
    w.pass(3 * MINUTE);
    for seq in [7000, 8000] {
        assert_eq!(w.server(port, SYN, seq, 0), Some(ALICES));
        assert_eq!(w.state(), Some(TcpState::Opening));
    }
    w.lives(MINUTE);
    // Unless the client answers.
    let port = w.connected();
    w.server(port, RST, 501, 0).unwrap();
    w.pass(3 * MINUTE);
    w.server(port, SYN, 7000, 0).unwrap();
    w.client(SYN | ACK, 100, 7001);
    w.lives(TRANSITORY);
}

#[test]
fn rfc5382_req4_an_unsolicited_syn_waits_6_seconds_for_the_client_s() {
    let mut w = World::new(settings());
    let port = w.leaves(tcp(ALICES, at(OTHER, 1), (SYN, 1, 0), &[], b""));
    let syn = tcp(SERVERS, at(LAN, port), (SYN, 500, 0), &[], b"");
    assert_eq!(w.inn(&mut syn.clone()), Outcome::Held);
    w.pass(Duration::from_millis(5999));
    assert_eq!(w.nat.poll_deferred(), None);
    w.pass(Duration::from_millis(1));
    let Some(DeferredPacket::ToLan(error)) = w.nat.poll_deferred() else {
        panic!()
    };
    assert_right(&error);
    assert_eq!((error[IP], error[IP + 1]), PORT_UNREACHABLE);
    let (from, to) = ends(&error);
    assert_eq!((from.ip(), to.ip()), (LAN, SERVER));
    assert_eq!(&error[IP + 8..], &syn[..]);

    assert_eq!(w.inn(&mut syn.clone()), Outcome::Held);
    w.pass(Duration::from_secs(5));
    assert_eq!(w.client(SYN, 100, 0), port);
    w.pass(MINUTE);
    assert_eq!(w.nat.poll_deferred(), None);
}

#[test]
fn rfc5382_req4_rfc5508_req9_an_unsolicited_syn_can_get_silence() {
    let on_unsolicited = OnUnsolicited::Drop;
    let mut w = World::new(Settings {
        on_unsolicited,
        ..settings()
    });
    let mut syn = tcp(SERVERS, at(LAN, 5555), (SYN, 500, 0), &[], b"");
    assert_eq!(w.inn(&mut syn), Outcome::Drop(Reason::NoMapping));
    assert_eq!(w.nat.next_timeout(), None);
}

#[test]
fn rfc5382_req4_a_turned_syn_does_not_wait() {
    let mut w = World::new(settings());
    let mut syn = tcp(ALICES, at(LAN, 7777), (SYN, 1, 0), &[], b"");
    assert_eq!(w.out(&mut syn), Outcome::Drop(Reason::NoMapping));
    w.pass(MINUTE);
    assert_eq!(w.nat.poll_deferred(), None);
}

#[test]
fn rfc5382_req4_waiting_syns_are_bounded() {
    let mut w = World::new(settings());
    let held = (0..1000)
        .filter(|p| {
            let mut syn = tcp(at(OTHER, *p), at(LAN, 5555), (SYN, 1, 0), &[], b"");
            w.inn(&mut syn) == Outcome::Held
        })
        .count();
    assert_eq!(held, 64);
    w.pass(MINUTE);
    assert_eq!(std::iter::from_fn(|| w.nat.poll_deferred()).count(), 64);
}

#[test]
fn a_segment_of_no_session_from_the_lan_is_dropped_and_the_client_s_goes_out() {
    let mut w = World::new(settings());
    let port = w.leaves(tcp(ALICES, at(SERVER, 1), (SYN, 1, 0), &[], b""));
    assert_eq!(w.server(port, ACK, 1, 1), None);
    assert_eq!(w.nat.counters().dropped(Reason::NoSession), 1);
    // A connection that is older than this NAT: the server says that it is no more.
    assert_eq!(w.client(ACK, 9000, 8000), port);
    assert_eq!(w.server(port, RST, 8000, 0), Some(ALICES));
    // But a client's RST opens nothing.
    let mut rst = tcp(at(ALICE, 5001), SERVERS, (RST, 1, 0), &[], b"");
    assert_eq!(w.out(&mut rst), Outcome::Drop(Reason::NoSession));
}

#[test]
fn sequence_numbers_are_those_that_both_ends_expect_next() {
    let mut w = World::new(settings());
    let port = w.connected();
    w.leaves(tcp(ALICES, SERVERS, (ACK, 101, 501), &[], &[0; 1000]));
    w.arrives(tcp(SERVERS, at(LAN, port), (ACK, 501, 601), &[], &[0; 50]))
        .unwrap();
    // A retransmission moves nothing back.
    w.leaves(tcp(ALICES, SERVERS, (ACK, 101, 501), &[], &[0; 500]));
    let id = w.flow_of(ALICES).unwrap().id;
    assert_eq!(
        w.nat.sequence(id),
        Some(Sequence {
            client_next: Some(1101),
            client_expects: Some(501),
            server_next: Some(551),
            server_expects: Some(601),
        })
    );
}

#[test]
fn mss_is_clamped_on_syns_both_ways_wherever_it_lies() {
    let mss = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // At an even and at an odd place.
    let most = 1420 - 20 - IP as u16;
    for (options, at_) in [
        (&[2, 4, 5, 0xB4][..], IP + 22),
        (&[1, 2, 4, 5, 0xB4, 1, 0, 0], IP + 23),
    ] {
        let mut w = World::new(settings());
        let mut syn = tcp(ALICES, SERVERS, (SYN, 1, 0), options, b"");
        assert!(matches!(w.out(&mut syn), Outcome::Forward(_)));
        assert_right(&syn);
        assert_eq!(mss(&syn, at_), most);
        let port = ends(&syn).0.port();
        let mut answer = tcp(SERVERS, at(LAN, port), (SYN | ACK, 1, 2), options, b"");
        assert!(matches!(w.inn(&mut answer), Outcome::Forward(_)));
        assert_right(&answer);
        assert_eq!(mss(&answer, at_), most);
    }
    // A smaller one is not raised, and only SYNs are looked at.
    let mut w = World::new(settings());
    let mut small = tcp(ALICES, SERVERS, (SYN, 1, 0), &[2, 4, 2, 0], b"");
    w.out(&mut small);
    assert_eq!(mss(&small, IP + 22), 512);
    let mut data = tcp(ALICES, SERVERS, (ACK, 2, 2), &[2, 4, 5, 0xB4], b"");
    w.out(&mut data);
    assert_eq!(mss(&data, IP + 22), 1460);
    // Broken options are left alone.
    for options in [
        [2, 0, 0, 0],
        [3, 1, 2, 4],
        [2, 4, 5, 0xB4].map(|b| b | 8),
        [1, 1, 2, 4],
    ] {
        let mut p = tcp(at(ALICE, 1), SERVERS, (SYN, 1, 0), &options, b"");
        w.out(&mut p);
        assert_right(&p);
        assert_eq!(p[IP + 20..IP + 24], options);
    }
}

#[test]
fn a_flow_that_we_reset_is_over_and_its_port_is_for_the_next() {
    let mut world = World::new(settings());
    let port = world.connected();
    let old = world.flow();
    world.nat.mark_reset(old, world.now);
    assert_eq!(world.state(), Some(TcpState::Reset));
    // Its server's last words still find the client, and do not bring it back.
    assert_eq!(world.server(port, ACK, 501, 101), Some(ALICES));
    assert_eq!(world.state(), Some(TcpState::Reset));
    world.lives(TRANSITORY);
    let port = world.connected();
    world.nat.mark_reset(old, world.now);
    assert_eq!(world.state(), Some(TcpState::Established), "another flow");
    world.nat.mark_reset(world.flow(), world.now);
    assert_eq!(world.client(SYN, 9000, 0), port);
    assert_eq!(world.state(), Some(TcpState::Opening));
}
