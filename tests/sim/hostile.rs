//! A client sends segments that the server's stack drops or reads in another way than the hook. The
//! server must never read VcNumber 0.

use crate::ip::{ACK, RST, SYN, tcp, tcp_data, with_urgent};
use crate::network::{Network, SERVER, inner};
use crate::raw::{raw, send_and_wait, take_lan_packets, take_received};
use crate::rules::lan;
use crate::smb::{SESSION_SETUP_ANDX, WRITE_ANDX, message, take_numbers};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::TcpPacket;
use std::time::Duration;
use vcgate_core::engine::GlobalPolicy;
use vcgate_wire::ip::Headers;

const CLIENT: u16 = 50_000;
const FIRST: u32 = 100;

/// A client that builds its packets itself, after the handshake with the server.
struct Attack {
    network: Network,
    socket: SocketHandle,
    /// The next sequence number of the server.
    expects: u32,
}

impl Attack {
    fn start() -> Self {
        let mut network = raw(GlobalPolicy::default(), &[vec![lan()]]);
        let socket = network.server.listen(445);
        let syn = tcp((inner(0), CLIENT), (SERVER, 445), (SYN, FIRST - 1, 0));
        send_and_wait(&mut network, 0, &syn);
        let expects = next_of(&take_received(&mut network, 0));
        let mut attack = Self {
            network,
            socket,
            expects,
        };
        let ack = attack.segment((ACK, attack.expects), b"");
        attack.send_and_wait(&ack);
        attack
    }

    /// Makes a segment with the first bytes of the client's stream.
    fn segment(&self, (flags, ack): (u8, u32), data: &[u8]) -> Vec<u8> {
        tcp_data((inner(0), CLIENT), (SERVER, 445), (flags, FIRST, ack), data)
    }

    fn send_and_wait(&mut self, packet: &[u8]) {
        send_and_wait(&mut self.network, 0, packet);
    }

    /// Returns the VcNumbers that the server received.
    fn numbers(&mut self) -> Vec<u16> {
        let socket = self.network.server.tcp(self.socket);
        let mut stream = vec![0; 4096];
        let len = socket.recv_slice(&mut stream).unwrap_or(0);
        take_numbers(&mut stream[..len])
    }
}

/// Returns the number after a server's SYN, which is all that the client has received.
fn next_of(received: &[Vec<u8>]) -> u32 {
    let [syn_ack] = received else {
        panic!("expected one answer");
    };
    u32::from_be_bytes(syn_ack[24..28].try_into().unwrap()).wrapping_add(1)
}

#[test]
fn rfc9293_3_10_7_4_segments_that_the_server_drops_do_not_mislead_the_hook() {
    for (flags, ahead) in [(0, 0), (ACK, 1), (ACK, 1 << 30)] {
        let mut attack = Attack::start();
        let ack = attack.expects.wrapping_add(ahead);
        let decoy = attack.segment((flags, ack), &message(WRITE_ANDX, 500));
        attack.send_and_wait(&decoy);
        let logon = message(SESSION_SETUP_ANDX, 60);
        let logon = attack.segment((ACK, attack.expects), &logon);
        attack.send_and_wait(&logon);
        assert_eq!(attack.numbers(), [1], "{flags:#x} {ahead}");
    }
}

/// The ways in which a client makes the gateway forget a connection that the server keeps.
#[derive(Debug, Clone, Copy)]
enum Forgotten {
    /// A RST that follows the client's data, of which the server has received none (RFC 5961
    /// section 3.2).
    Reset,
    /// A SYN for another connection, after that RST (RFC 5961 section 4).
    Reopened,
    /// Silence for longer than the gateway remembers established connections.
    Silent,
}

#[test]
fn rfc5961_3_2_a_connection_that_only_the_server_remembers_is_reset() {
    for how in [Forgotten::Reset, Forgotten::Reopened, Forgotten::Silent] {
        let mut attack = Attack::start();
        // Another connection of the same socket keeps the port.
        attack.network.server.listen(446);
        let keep = |flags| tcp((inner(0), CLIENT), (SERVER, 446), flags);
        attack.send_and_wait(&keep((SYN, 99, 0)));
        let its = next_of(&take_received(&mut attack.network, 0));
        let keep_alive = keep((ACK, 100, its));
        attack.send_and_wait(&keep_alive);
        let far_ahead = FIRST.wrapping_add(1 << 20);
        let at = |seq, flags, data: &[u8]| {
            tcp_data((inner(0), CLIENT), (SERVER, 445), (flags, seq, 0), data)
        };
        if !matches!(how, Forgotten::Silent) {
            attack.send_and_wait(&at(far_ahead, ACK, b"lost"));
            attack.send_and_wait(&at(far_ahead + 4, RST, b""));
        }
        match how {
            Forgotten::Reset => attack.network.wait(Duration::from_secs(300)),
            Forgotten::Reopened => {
                // The server answers one invalid segment per second.
                attack.network.wait(Duration::from_secs(2));
                attack.send_and_wait(&at(far_ahead + 9, SYN, b""));
            }
            Forgotten::Silent => {
                for _ in 0..3 {
                    attack.network.wait(Duration::from_secs(3600));
                    attack.send_and_wait(&keep_alive);
                }
            }
        }
        take_received(&mut attack.network, 0);
        let logon = message(SESSION_SETUP_ANDX, 60);
        let logon = attack.segment((ACK, attack.expects), &logon);
        attack.send_and_wait(&logon);
        assert_eq!(attack.numbers(), [0; 0], "{how:?}");
        let is_open = attack.network.server.tcp(attack.socket).is_open();
        assert!(!is_open, "{how:?}: the server keeps the connection");
        let is_reset = |packet: &Vec<u8>| packet[33] & RST != 0;
        let received = take_received(&mut attack.network, 0);
        assert!(
            received.iter().any(is_reset),
            "{how:?}: the client is not reset"
        );
    }
}

/// Most stacks remove the urgent byte from the stream.
#[test]
fn rfc6093_2_urgent_data_is_forwarded_as_ordinary_data() {
    const URG: u8 = 0x20;
    let mut attack = Attack::start();
    take_lan_packets(&mut attack.network);
    let logon = message(SESSION_SETUP_ANDX, 60);
    let logon = attack.segment((ACK | URG, attack.expects), &logon);
    attack.send_and_wait(&with_urgent(logon, 7));
    let announced = attack.segment((ACK | URG, attack.expects), b"");
    attack.send_and_wait(&with_urgent(announced, 90));
    let packets = take_lan_packets(&mut attack.network);
    assert_eq!(packets.len(), 2);
    for packet in packets {
        let headers = Headers::parse(&packet).unwrap();
        let tcp = TcpPacket::new_checked(&packet[headers.l4..]).unwrap();
        assert_eq!((tcp.urg(), tcp.urgent_at()), (false, 0));
        assert!(tcp.verify_checksum(&headers.src.into(), &headers.dst.into()));
    }
    assert_eq!(attack.numbers(), [1]);
}
