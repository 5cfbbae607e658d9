//! How much a shard does in one round. It is held until all is there that is to be done.

use super::*;

/// More than a round has super-packets, fewer than it has small packets.
const PACKETS: usize = 100;

/// Counts what comes, and says of what the LAN sends whose it is.
struct Counts {
    whose: ShardTarget,
    came: usize,
    /// What came in each round in which anything did.
    rounds: Vec<usize>,
    due: Option<Instant>,
    /// The rounds before the timeout.
    before_timeout: Vec<usize>,
}

impl Counts {
    fn new(whose: ShardTarget) -> Self {
        Self {
            whose,
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
        self.whose
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

/// Sends so many small datagrams to a shard.
fn client_sends(port: u16, datagrams: usize) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..datagrams {
        client.send_to(b"small", ("127.0.0.1", port)).unwrap();
    }
}

/// Keeps a shard in the midst of a round until what this returns is dropped.
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

/// The rounds of a shard, once at least so much came in them.
async fn rounds(handle: &ShardHandle<Counts>, packets: usize) -> Vec<usize> {
    loop {
        let rounds = handle.with(|counts, _| counts.rounds.clone());
        let rounds = rounds.await.unwrap();
        if rounds.iter().sum::<usize>() >= packets {
            return rounds;
        }
    }
}

/// The LAN sends so many small packets.
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
    let longest = weight::ROUND / weight::LEAST;
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
fn small_packets_that_mates_hand_on_take_their_share_of_a_round() {
    if !sys::enter_new_network() {
        return;
    }
    let sockets = Udp::bind_all(Settings::on_port(0), 2).unwrap();
    let counts = || Counts::new(ShardTarget::Remote(1));
    let lanes = sockets.into_iter().map(|udp| (counts(), udp)).collect();
    let threads = Threads::start(lanes, tun("viosh9", Offload::None)).unwrap();
    let handles = threads.handles();
    let [reader, mate] = &*handles else {
        panic!("there are not two shards");
    };
    runtime().block_on(async {
        let [reader_held, mate_held] = [reader, mate].map(hold);
        lan_sends(PACKETS);
        drop(reader_held);
        assert_eq!(rounds(reader, 1).await, [PACKETS]);
        drop(mate_held);
        assert_eq!(rounds(mate, 1).await, [PACKETS]);
        let lost = &reader.counters().mail_lost;
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
        // Due in the next round: this one began before the pause.
        drop(handle.with(|counts, _| counts.due = Some(Instant::now())));
        drop(held);
        rounds(&handle, 3 * PACKETS).await;
        let before = handle.with(|counts, _| counts.before_timeout.clone());
        let before = before.await.unwrap();
        assert!(before.len() > 1, "one round was enough: {before:?}");
        assert_eq!(before.iter().sum::<usize>(), 3 * PACKETS);
    });
}
