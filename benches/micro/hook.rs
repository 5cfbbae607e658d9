//! The SMB hook alone: bulk copies that it reads, and logons that it rewrites.

use crate::Work;
use crate::packets::{CLIENT, LAN, SERVER, Side, Stream, logon, vc_number};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;
use vcgate_core::ids::{FlowId, PeerId};
use vcgate_core::smb::{Ends, Hook, Segment, Settings, Verdict};
use vcgate_wire::packet::Payload;
use vcgate_wire::tcp::SeqNumber;

/// A super-packet's payload.
pub(crate) const CHUNK: usize = 45 * 1380;
/// The first sequence numbers.
const CLIENT_ISN: u32 = 1000;
const SERVER_ISN: u32 = 5000;

/// A bulk copy in one direction.
pub(crate) struct Bulk {
    hook: Hook,
    side: Side,
    stream: Stream,
    next: u32,
    passed: usize,
    now: Instant,
}

impl Bulk {
    pub(crate) fn new(side: Side, stream: fn(Side) -> Stream) -> Self {
        let mut hook = Hook::new(Settings::default());
        open(&mut hook, flow(0), Instant::now());
        let isn = match side {
            Side::Client => CLIENT_ISN,
            Side::Server => SERVER_ISN,
        };
        let (stream, now) = (stream(side), Instant::now());
        if stream.is_smb2() {
            // The server's first answer decides on the protocol.
            let answer = &mut Stream::smb2(Side::Server).take(100);
            let segment = data(SERVER_ISN + 1, CLIENT_ISN + 1);
            hook.server(flow(0), &segment, &Payload::new(answer), now);
        }
        Self {
            hook,
            side,
            stream,
            next: isn + 1,
            passed: 0,
            now,
        }
    }
}

impl Work for Bulk {
    fn input(&mut self) -> Vec<u8> {
        if let Side::Client = self.side {
            let ack = data(SERVER_ISN + 1, self.next);
            let nothing = Payload::new(&mut []);
            self.hook.server(flow(0), &ack, &nothing, self.now);
        }
        self.stream.take(CHUNK)
    }

    fn run(&mut self, bytes: &mut [u8]) {
        let len = bytes.len();
        let mut payload = Payload::new(bytes);
        match self.side {
            Side::Client => {
                let segment = data(self.next, SERVER_ISN + 1);
                let hook = &mut self.hook;
                let verdict =
                    hook.client(flow(0), &ends(0), &segment, &mut payload, peer_of, self.now);
                self.passed += usize::from(verdict == Verdict::Pass);
            }
            Side::Server => {
                let segment = data(self.next, CLIENT_ISN + 1);
                self.hook.server(flow(0), &segment, &payload, self.now);
                self.passed += 1;
            }
        }
        self.next = self.next.wrapping_add(len as u32);
    }

    fn check(&self, runs: usize) {
        assert_eq!(self.passed, runs);
        let report = self.hook.flow(flow(0)).expect("the flow is open");
        let unread = report.bypass.is_some();
        let smb2 = self.stream.is_smb2();
        assert_eq!(unread, smb2, "{:?}", report.bypass);
    }
}

/// Logons, each on a new connection that ends afterwards, beside other connections that stay.
pub(crate) struct Setups {
    hook: Hook,
    slot: u32,
    changed: usize,
    now: Instant,
}

impl Setups {
    /// Prepares a hook with `others` flows that have numbers already.
    pub(crate) fn new(others: u32) -> Self {
        let now = Instant::now();
        let mut hook = Hook::new(Settings::default());
        for slot in 0..others {
            log_on(&mut hook, flow(slot), &mut logon(), now);
        }
        while hook.poll_event().is_some() {}
        Self {
            hook,
            slot: others,
            changed: 0,
            now,
        }
    }
}

impl Work for Setups {
    fn input(&mut self) -> Vec<u8> {
        logon()
    }

    fn run(&mut self, bytes: &mut [u8]) {
        let flow = flow(self.slot);
        log_on(&mut self.hook, flow, bytes, self.now);
        self.hook.close(flow);
        while self.hook.poll_event().is_some() {}
        self.changed += usize::from(vc_number(bytes) != 0);
    }

    fn check(&self, runs: usize) {
        assert_eq!(self.changed, runs, "every logon got a number");
    }
}

fn log_on(hook: &mut Hook, flow: FlowId, bytes: &mut [u8], now: Instant) {
    open(hook, flow, now);
    let segment = data(CLIENT_ISN + 1, SERVER_ISN + 1);
    let mut payload = Payload::new(bytes);
    let verdict = hook.client(flow, &ends(flow.slot), &segment, &mut payload, peer_of, now);
    assert_eq!(verdict, Verdict::Pass);
}

/// Assigns all clients to one peer.
fn peer_of(_: IpAddr) -> Option<PeerId> {
    Some(PeerId(0))
}

/// Makes a TCP handshake.
fn open(hook: &mut Hook, flow: FlowId, now: Instant) {
    let syn = |seq, ack| Segment {
        seq,
        ack,
        syn: true,
        fin: false,
        rst: false,
        window: 512,
        sack_permitted: false,
        timestamps: None,
    };
    let nothing = &mut Payload::new(&mut []);
    let first = syn(SeqNumber(CLIENT_ISN), None);
    let verdict = hook.client(flow, &ends(flow.slot), &first, nothing, peer_of, now);
    assert_eq!(verdict, Verdict::Pass);
    let answer = syn(SeqNumber(SERVER_ISN), Some(SeqNumber(CLIENT_ISN + 1)));
    hook.server(flow, &answer, nothing, now);
}

fn data(seq: u32, ack: u32) -> Segment {
    Segment {
        seq: SeqNumber(seq),
        ack: Some(SeqNumber(ack)),
        syn: false,
        fin: false,
        rst: false,
        window: 512,
        sack_permitted: false,
        timestamps: None,
    }
}

fn flow(slot: u32) -> FlowId {
    FlowId {
        slot,
        generation: 0,
    }
}

/// Returns the ends of a flow. Each flow has a client of its own, because a logon checks the old
/// flows of its client.
fn ends(slot: u32) -> Ends {
    let client = Ipv4Addr::from(u32::from(CLIENT) + slot);
    Ends {
        client: SocketAddr::new(client.into(), 50_000),
        lan: IpAddr::V4(LAN),
        server: SocketAddr::new(SERVER.into(), 445),
    }
}
