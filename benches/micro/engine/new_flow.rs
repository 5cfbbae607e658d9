//! A client's new flow, with and without the flow journal: what the shard does for it, without the
//! journal's thread.

use super::{Kind, Scene, path};
use crate::Work;
use crate::packets::{ACK, CLIENT, SYN, Side, tcp, udp};
use std::hint::black_box;
use std::io::IoSlice;
use std::net::SocketAddrV4;
use vcgate_core::engine::{Output, ShardMessage};
use vcgate_core::journal::Record;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::virtio_net::Header;

/// Number of flows after which another engine begins, far below a client's limit.
const FLOWS: u16 = 500;
/// Length of an IPv4 and a TCP header in bytes.
const SYN_LEN: usize = 40;

/// The protocol of the flows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A connection is opened by three segments, each in a batch of its own.
    Tcp,
    /// One datagram.
    Udp,
}

/// New flows, one at a time.
pub(crate) struct NewFlow {
    scene: Scene,
    protocol: Protocol,
    has_journal: bool,
    /// Number of flows of this engine.
    flows: u16,
    records: usize,
    /// The changes of a run, a buffer for each batch. The journal's thread, which is not measured,
    /// empties them.
    changes: Vec<Vec<Record>>,
    spare: Vec<Vec<Record>>,
    out: Opened,
}

impl NewFlow {
    pub(crate) fn new(protocol: Protocol, has_journal: bool) -> Self {
        let mut scene = Scene::new(Kind::Plain, Side::Client);
        if has_journal {
            scene.engine.collect_changes();
        }
        Self {
            scene,
            protocol,
            has_journal,
            flows: 0,
            records: 0,
            changes: Vec::new(),
            spare: Vec::new(),
            out: Opened::default(),
        }
    }

    /// Handles a datagram of the client as a batch.
    fn receive(&mut self, datagram: &[u8]) {
        let Scene { engine, now, .. } = &mut self.scene;
        let out = &mut self.out;
        engine.datagrams(
            &path(),
            Ecn::NotCapable,
            datagram.len(),
            datagram,
            *now,
            out,
        );
        engine.flush(*now, out);
        self.take_changes();
    }

    /// Handles the server's SYN, whose port is that of the flow.
    fn accept(&mut self, packet: &mut [u8]) {
        packet[22..24].copy_from_slice(&self.out.port);
        let Scene { engine, now, .. } = &mut self.scene;
        engine.lan_packet(&Header::default(), packet, *now, &mut self.out);
        engine.flush(*now, &mut self.out);
        self.take_changes();
    }

    /// Takes the changes after a batch, as each shard does.
    fn take_changes(&mut self) {
        let engine = &mut self.scene.engine;
        while engine.poll_block().is_some() {}
        if engine.has_changes() {
            let mut records = self.spare.pop().unwrap_or_default();
            engine.append_changes(&mut records);
            self.changes.push(records);
        }
    }
}

impl Work for NewFlow {
    fn input(&mut self) -> Vec<u8> {
        for mut records in self.changes.drain(..) {
            self.records += records.drain(..).count();
            self.spare.push(records);
        }
        if self.flows == FLOWS {
            let (records, out) = (self.records, self.out);
            *self = Self::new(self.protocol, self.has_journal);
            (self.records, self.out) = (records, out);
        }
        self.flows += 1;
        let Scene {
            server, outside, ..
        } = self.scene;
        let client = SocketAddrV4::new(CLIENT, 20_000 + self.flows);
        match self.protocol {
            Protocol::Tcp => {
                let syn = tcp(client, server, (999, 0), SYN, &[]);
                let accept = tcp(server, outside, (1999, 1000), SYN | ACK, &[]);
                let confirm = tcp(client, server, (1000, 2000), ACK, &[]);
                [accept, self.scene.sealed(&syn), self.scene.sealed(&confirm)].concat()
            }
            Protocol::Udp => self.scene.sealed(&udp(client, server)),
        }
    }

    fn run(&mut self, input: &mut [u8]) {
        match self.protocol {
            Protocol::Tcp => {
                let (accept, sealed) = input.split_at_mut(SYN_LEN);
                let (syn, confirm) = sealed.split_at(sealed.len() / 2);
                self.receive(syn);
                self.accept(accept);
                self.receive(confirm);
            }
            Protocol::Udp => self.receive(input),
        }
    }

    fn check(&self, runs: usize) {
        let (to_lan, to_client, records) = match self.protocol {
            Protocol::Tcp => (2 * runs, runs, 2 * runs),
            Protocol::Udp => (runs, 0, runs),
        };
        assert_eq!(self.out.to_lan, to_lan);
        assert_eq!(self.out.to_client, to_client);
        match self.has_journal {
            // Some flows have a record of a port block too.
            true => {
                assert!(self.records + self.changes.iter().map(Vec::len).sum::<usize>() >= records)
            }
            false => assert!(self.changes.is_empty()),
        }
    }
}

/// Notes the port of the flow on the LAN, and counts the packets.
#[derive(Clone, Copy, Default)]
struct Opened {
    port: [u8; 2],
    to_lan: usize,
    to_client: usize,
}

impl Output for Opened {
    fn datagrams(&mut self, _: &Path, _: Ecn, _: usize, bytes: &[u8]) {
        black_box(bytes);
        self.to_client += 1;
    }

    fn lan_packet(&mut self, _: &Header, pieces: &[IoSlice<'_>]) {
        if let Some([high, low]) = pieces.first().and_then(|piece| piece.get(20..22)) {
            self.port = [*high, *low];
        }
        self.to_lan += 1;
    }

    fn to_shard(&mut self, shard: u8, _: ShardMessage) {
        panic!("there is no shard {shard}");
    }
}
