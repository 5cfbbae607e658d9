//! A shard between a real TUN device and real sockets, in a network namespace of the test.

mod rounds;

use super::worker::LAN_BUFFER;
use super::*;
use crate::sys;
use crate::tun::Offload;
use crate::udp::Settings;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use vcgate_wire::virtio_net::Gso;

const LAN: &str = "10.99.0.1";
const SECONDS: Option<Duration> = Some(Duration::from_secs(5));

/// Forwards packets of clients to the LAN unchanged, and packets of the LAN to the last client.
#[derive(Default)]
struct Bridge {
    client: Option<Path>,
    timeout: Option<Instant>,
    timeouts: usize,
    headers: Vec<Header>,
}

impl Pipeline for Bridge {
    fn datagrams(
        &mut self,
        path: &Path,
        _: Ecn,
        stride: usize,
        bytes: &[u8],
        _: Instant,
        out: &mut impl Output,
    ) {
        self.client = Some(*path);
        for packet in bytes.chunks(stride) {
            out.lan_packet(&Header::default(), &[IoSlice::new(packet)]);
        }
    }

    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        _: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        self.headers.push(*header);
        if let Some(client) = &self.client {
            out.datagrams(client, Ecn::default(), bytes.len(), bytes);
        }
        ShardTarget::Local
    }

    fn flush(&mut self, _: Instant, _: &mut impl Output) {}

    fn handle_timeout(&mut self, now: Instant, _: &mut impl Output) {
        assert!(self.timeout.is_some_and(|due| due <= now));
        self.timeouts += 1;
        self.timeout = None;
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }
}

/// Returns every packet with its addresses exchanged, which does not change the checksum: a client
/// that connects to the far side of the device reaches a server on this side.
#[derive(Default)]
struct Mirror {
    longest: usize,
    kinds: Vec<Gso>,
}

impl Pipeline for Mirror {
    fn datagrams(&mut self, _: &Path, _: Ecn, _: usize, _: &[u8], _: Instant, _: &mut impl Output) {
    }

    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        _: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        self.longest = self.longest.max(bytes.len());
        if !self.kinds.contains(&header.gso) {
            self.kinds.push(header.gso);
        }
        let (src, dst) = bytes[12..20].split_at_mut(4);
        src.swap_with_slice(dst);
        out.lan_packet(header, &[IoSlice::new(bytes)]);
        ShardTarget::Local
    }

    fn flush(&mut self, _: Instant, _: &mut impl Output) {}

    fn handle_timeout(&mut self, _: Instant, _: &mut impl Output) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Creates a device that is up and has the address [`LAN`], without IPv6, which would send packets.
fn tun(name: &str, wanted: Offload) -> Tun {
    ip("link set lo up");
    let tun = Tun::create(name, wanted).unwrap();
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    ip(&format!("address add {LAN}/24 dev {name}"));
    ip(&format!("link set {name} up mtu 1420"));
    tun
}

/// Returns a UDP packet from 10.99.0.2 to [`LAN`] without the optional checksum.
fn packet(to: u16, payload: &[u8]) -> Vec<u8> {
    let udp = (8 + payload.len()) as u16;
    let mut p = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1,
    ];
    p[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
    let sum = !smoltcp::wire::checksum::data(&p);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [5000, to, udp, 0] {
        p.extend(word.to_be_bytes());
    }
    p.extend(payload);
    p
}

fn start(name: &str, wanted: Offload) -> (Shard<Bridge>, u16) {
    let udp = Udp::bind(Settings::on_port(0)).unwrap();
    let port = udp.port();
    (
        Shard::start(Bridge::default(), tun(name, wanted), udp).unwrap(),
        port,
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_shard_carries_packets_both_ways_runs_commands_and_stops() {
    if !sys::enter_new_network() {
        return;
    }
    for wanted in [Offload::None, Offload::Tcp, Offload::TcpAndUdp] {
        let (shard, port) = start("viosh0", wanted);
        let server = UdpSocket::bind((LAN, 0)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(SECONDS).unwrap();
        }
        let request = packet(server.local_addr().unwrap().port(), b"request");
        client.send_to(&request, ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from.to_string()),
            (&b"request"[..], "10.99.0.2:5000".into())
        );
        server.send_to(b"reply", from).unwrap();
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[28..len], b"reply", "{wanted:?}");

        let handle = shard.handle();
        let other = Udp::bind(Settings::on_port(0)).unwrap();
        client
            .send_to(&request, ("127.0.0.1", other.port()))
            .unwrap();
        handle.replace_udp(other);
        assert_eq!(server.recv(&mut buffer).unwrap(), 7, "over the new port");
        runtime().block_on(async {
            assert!(
                handle
                    .with(|bridge, _| bridge.client.is_some())
                    .await
                    .unwrap()
            );
            assert_eq!(shard.stop().await.unwrap().headers.len(), 1);
            assert_eq!(handle.with(|_, _| ()).await, Err(ShardGone));
        });
        sys::until(|| sys::interface_index("viosh0").is_none());
    }
}

#[test]
fn an_idle_shard_wakes_for_its_timers_only() {
    if !sys::enter_new_network() {
        return;
    }
    let (shard, _) = start("viosh1", Offload::None);
    let handle = shard.handle();
    runtime().block_on(async {
        let mut commands = 1;
        let due = handle.with(|bridge, now| bridge.timeout = Some(now + Duration::from_millis(1)));
        due.await.unwrap();
        while handle.with(|bridge, _| bridge.timeouts).await.unwrap() == 0 {
            commands += 1;
        }
        let wakeups = handle.counters().wakeups.load(Relaxed);
        assert!(
            wakeups <= commands + 2,
            "{wakeups} wake-ups for {commands} commands, one timer"
        );
        assert_eq!(shard.stop().await.unwrap().timeouts, 1);
    });
}

#[test]
fn a_panic_and_a_deleted_device_are_reported() {
    if !sys::enter_new_network() {
        return;
    }
    runtime().block_on(async {
        let (mut shard, port) = start("viosh2", Offload::None);
        let command = shard.handle().with(|_, _| panic!("as the test asked"));
        assert_eq!(command.await, Err::<(), _>(ShardGone));
        let failure = shard.failed().await.to_string();
        assert!(failure.contains("as the test asked"), "{failure}");
        sys::until(|| Udp::bind(Settings::on_port(port)).is_ok());
        assert!(shard.stop().await.is_none(), "its state is unknown");

        let (mut shard, _) = start("viosh3", Offload::TcpAndUdp);
        ip("link delete viosh3");
        let failure = shard.failed().await;
        assert!(
            matches!(&failure, Failure::Tun { interface, .. } if interface == "viosh3"),
            "{failure}"
        );
        assert!(shard.stop().await.is_some(), "the pipeline is intact");
    });
}

#[test]
fn when_one_shard_fails_the_others_stop_too() {
    if !sys::enter_new_network() {
        return;
    }
    for dropped in [false, true] {
        let sockets = Udp::bind_all(Settings::on_port(0), 2).unwrap();
        let pipelines = sockets.into_iter().map(|udp| (Bridge::default(), udp));
        let tun = tun("viosh7", Offload::None);
        let mut threads = Threads::start(pipelines.collect(), tun).unwrap();
        runtime().block_on(async {
            let command = threads.handles()[1].with(|_, _| panic!("as the test asked"));
            assert_eq!(command.await, Err::<(), _>(ShardGone));
            let failure = threads.failed().await.to_string();
            assert!(failure.contains("as the test asked"), "{failure}");
            match dropped {
                true => drop(threads),
                false => {
                    let whole: Vec<_> = threads.stop().await.iter().map(Option::is_some).collect();
                    assert_eq!(whole, [true, false]);
                    assert!(sys::interface_index("viosh7").is_none());
                }
            }
        });
        sys::until(|| sys::interface_index("viosh7").is_none());
    }
}

#[test]
fn super_packets_cross_the_device_both_ways() {
    if !sys::enter_new_network() {
        return;
    }
    let mut tun = tun("viosh4", Offload::TcpAndUdp);
    if tun.offloads() < Offload::TcpAndUdp {
        eprintln!("this kernel cuts no UDP super-packets: skipped");
        return;
    }
    // To the kernel: one write, three datagrams.
    let server = UdpSocket::bind((LAN, 0)).unwrap();
    server.set_read_timeout(SECONDS).unwrap();
    let payload: Vec<u8> = (0..2500).map(|i| (i % 251) as u8).collect();
    let mut bytes = packet(server.local_addr().unwrap().port(), &payload);
    let pseudo = smoltcp::wire::checksum::pseudo_header_v4(
        &[10, 99, 0, 2].into(),
        &[10, 99, 0, 1].into(),
        smoltcp::wire::IpProtocol::Udp,
        2508,
    );
    bytes[26..28].copy_from_slice(&pseudo.to_be_bytes());
    let header = Header {
        needs_csum: true,
        gso: Gso::UdpL4,
        header_len: 28,
        gso_size: 1000,
        csum_start: 20,
        csum_offset: 6,
        ..Header::default()
    };
    let (head, tail) = bytes.split_at(528);
    let pieces: Vec<_> = std::iter::once(head)
        .chain(tail.chunks(25))
        .map(IoSlice::new)
        .collect();
    assert!(pieces.len() > 64, "more than fit without an allocation");
    for pieces in [
        &pieces[..],
        &[IoSlice::new(&bytes)],
        &[IoSlice::new(head), IoSlice::new(tail)],
    ] {
        tun.write(&header, pieces).unwrap();
        let (mut received, mut buffer) = (Vec::<u8>::new(), [0; 2000]);
        for expected in [1000, 1000, 500] {
            let len = server.recv(&mut buffer).unwrap();
            assert_eq!(len, expected);
            received.extend(&buffer[..len]);
        }
        assert_eq!(received, payload);
    }
    // From the kernel: one send, one read.
    let mut udp = Udp::bind(Settings::on_port(0)).unwrap();
    let path = Path {
        remote: "10.99.0.2:7".parse().unwrap(),
        local: None,
    };
    assert_eq!(udp.send(&path, Ecn::default(), 1000, &payload), 0);
    let mut buffer = Vec::with_capacity(LAN_BUFFER);
    let header = tun.read(&mut buffer).unwrap().unwrap();
    assert_eq!(
        (header.gso, header.gso_size, buffer.len()),
        (Gso::UdpL4, 1000, 2528)
    );
    assert_eq!(&buffer[28..], payload);
    assert!(tun.read(&mut buffer).unwrap().is_none());
}

#[test]
fn a_plain_device_refuses_partial_checksums_and_a_taken_name_is_reported_with_its_holder() {
    if !sys::enter_new_network() {
        return;
    }
    let tun = tun("viosh5", Offload::None);
    let unfinished = Header {
        needs_csum: true,
        ..Header::default()
    };
    assert!(
        tun.write(&unfinished, &[IoSlice::new(&packet(9, b""))])
            .is_err()
    );
    assert!(
        tun.write(&Header::default(), &[IoSlice::new(&packet(9, b""))])
            .is_ok()
    );
    let error = Tun::create("viosh5", Offload::None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("by process {}", std::process::id())),
        "{error}"
    );
    assert!(
        Tun::create("lo", Offload::None)
            .unwrap_err()
            .to_string()
            .contains("lo is taken:")
    );
}

#[test]
fn tcp_crosses_the_device_in_super_packets_without_loss() {
    if !sys::enter_new_network() {
        return;
    }
    for wanted in [Offload::None, Offload::Tcp] {
        let udp = Udp::bind(Settings::on_port(0)).unwrap();
        let shard = Shard::start(Mirror::default(), tun("viosh6", wanted), udp).unwrap();
        let listener = TcpListener::bind((LAN, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
        let (mut client, expected) = (
            TcpStream::connect(("10.99.0.2", port)).unwrap(),
            sent.clone(),
        );
        let sender = std::thread::spawn(move || client.write_all(&sent));
        let mut received = Vec::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_end(&mut received)
            .unwrap();
        sender.join().unwrap().unwrap();
        assert!(received == expected, "{wanted:?}");
        let mirror = runtime().block_on(shard.stop()).unwrap();
        if wanted == Offload::None {
            assert_eq!((mirror.longest, mirror.kinds), (1420, vec![Gso::None]));
        } else {
            assert!(mirror.kinds.contains(&Gso::TcpV4));
            assert!(mirror.longest > 10 * 1420, "{}", mirror.longest);
        }
        sys::until(|| sys::interface_index("viosh6").is_none());
    }
}
