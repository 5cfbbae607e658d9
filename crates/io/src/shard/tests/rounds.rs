//! The amount of work in one round. The shard is held until all of the input is there.

use super::*;

/// A number between the super-packets and the small packets of one round.
const PACKETS: usize = 100;

/// Counts packets, and returns a fixed target for those of the LAN.
struct Counts {
    target: ShardTarget,
    came: usize,
    /// The number of packets in each round that had any.
    rounds: Vec<usize>,
    due: Option<Instant>,
    /// The number of rounds before the timeout.
    before_timeout: Vec<usize>,
}

impl Counts {
    fn new(target: ShardTarget) -> Self {
        Self {
            target,
            came: 0,
            rounds: Vec::new(),
            due: None,
            before_timeout: Vec::new(),
        }
    }
}

impl Pipeline for Counts {
    fn datagrams(
        &mut self,
        _: &Path,
        _: Ecn,
        stride: usize,
        bytes: &[u8],
        _: Instant,
        _: &mut impl Output,
    ) {
        self.came += bytes.len().div_ceil(stride);
    }

    fn lan_packet(
        &mut self,
        _: &Header,
        _: &mut [u8],
        _: Instant,
        _: &mut impl Output,
    ) -> ShardTarget {
        self.came += 1;
        self.target
    }

    fn deliver_message(&mut self, _: ShardMessage, _: Instant, _: &mut impl Output) {
        self.came += 1;
    }

    fn flush(&mut self, _: Instant, _: &mut impl Output) {
        if self.came > 0 {
            self.rounds.push(std::mem::take(&mut self.came));
        }
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut impl Output) {
        self.due = None;
        self.before_timeout = self.rounds.clone();
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.due
    }
}

/// Sends small datagrams to a shard.
fn client_sends(port: u16, datagrams: usize) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..datagrams {
        client.send_to(b"small", ("127.0.0.1", port)).unwrap();
    }
}

/// Holds a shard in a round until the returned value is dropped.
fn hold(handle: &ShardHandle<Counts>) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (held, is_held) = mpsc::channel();
    drop(handle.with(move |_, _| {
        held.send(()).unwrap();
        let _ = released.recv();
    }));
    is_held.recv().unwrap();
    release
}

/// Waits for this number of packets and returns the rounds of a shard.
async fn rounds(handle: &ShardHandle<Counts>, packets: usize) -> Vec<usize> {
    loop {
        let rounds = handle.with(|counts, _| counts.rounds.clone());
        let rounds = rounds.await.unwrap();
        if rounds.iter().sum::<usize>() >= packets {
            return rounds;
        }
    }
}

/// Sends small packets from the LAN.
fn lan_sends(packets: usize) {
    let host = UdpSocket::bind((LAN, 0)).unwrap();
    for _ in 0..packets {
        host.send_to(b"small", "10.99.0.2:5000").unwrap();
    }
}

#[test]
fn small_packets_of_the_lan_and_of_clients_take_their_share_of_a_round() {
    if !sys::enter_new_network() {
        return;
    }
    let udp = Udp::bind(Settings::on_port(0)).unwrap();
    let port = udp.port();
    let tun = tun("viosh8", Offload::None);
    let shard = Shard::start(Counts::new(ShardTarget::Local), tun, udp).unwrap();
    let handle = shard.handle();
    let longest = weight::ROUND_BUDGET / weight::MIN_WEIGHT;
    runtime().block_on(async {
        let held = hold(&handle);
        lan_sends(longest + PACKETS);
        drop(held);
        let by_the_lan = rounds(&handle, longest + PACKETS).await;
        assert_eq!(by_the_lan, [longest, PACKETS]);

        let held = hold(&handle);
        client_sends(port, PACKETS);
        drop(held);
        let all = rounds(&handle, longest + 2 * PACKETS).await;
        assert_eq!(all[2..], [PACKETS]);
    });
}

#[test]
fn small_packets_from_other_shards_take_their_share_of_a_round() {
    if !sys::enter_new_network() {
        return;
    }
    let sockets = Udp::bind_all(Settings::on_port(0), 2).unwrap();
    let counts = || Counts::new(ShardTarget::Remote(1));
    let pipelines = sockets.into_iter().map(|udp| (counts(), udp)).collect();
    let threads = Threads::start(pipelines, tun("viosh9", Offload::None)).unwrap();
    let handles = threads.handles();
    let [reader, sender] = &*handles else {
        panic!("there are not two shards");
    };
    runtime().block_on(async {
        let [reader_held, mate_held] = [reader, sender].map(hold);
        lan_sends(PACKETS);
        drop(reader_held);
        assert_eq!(rounds(reader, 1).await, [PACKETS]);
        drop(mate_held);
        assert_eq!(rounds(sender, 1).await, [PACKETS]);
        let lost = &reader.counters().messages_lost;
        assert_eq!(lost.load(Relaxed), 0);
    });
}

#[test]
fn after_a_pause_timers_run_when_the_socket_has_been_read() {
    if !sys::enter_new_network() {
        return;
    }
    let udp = Udp::bind(Settings::on_port(0)).unwrap();
    let port = udp.port();
    let tun = tun("viosh10", Offload::None);
    let shard = Shard::start(Counts::new(ShardTarget::Local), tun, udp).unwrap();
    let handle = shard.handle();
    runtime().block_on(async {
        let held = hold(&handle);
        client_sends(port, 3 * PACKETS);
        // Due in the next round, because this one began before the pause.
        drop(handle.with(|counts, _| counts.due = Some(Instant::now())));
        drop(held);
        rounds(&handle, 3 * PACKETS).await;
        let before = handle.with(|counts, _| counts.before_timeout.clone());
        let before = before.await.unwrap();
        assert!(before.len() > 1, "one round was enough: {before:?}");
        assert_eq!(before.iter().sum::<usize>(), 3 * PACKETS);
    });
}
