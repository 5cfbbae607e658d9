//! A WireGuard client whose kernel work is as cheap as a client's can be: super-packets on its
//! TUN device, bursts on its UDP socket. A gateway's limit shows only in front of such a client:
//! wireguard-go needs more CPU for each megabyte than a good gateway does.
//!
//! It is made of vcgate's own rooms in the client's role, without NAT, rules and hook. It sets no
//! addresses or routes: who starts it does, after it has printed "ready".

use anyhow::Context;
use clap::Parser;
use ipnet::{Ipv4Net, Ipv6Net};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;
use vcgate::keys::{KeyFile, PrivateKey, PublicKey};
use vcgate_core::engine::{GroQueue, GroResult, GsoBatch, Merge, Output, ShardTarget};
use vcgate_core::ids::PeerId;
use vcgate_core::tunnel::{self, Ecn, Path, PeerSettings, Received, Sealed, Tunnel};
use vcgate_io::shard::{Pipeline, Shard};
use vcgate_io::tun::{Offload, Tun};
use vcgate_io::udp::{self, Udp};
use vcgate_wire::coalesce::{MAX_SEGMENTS, Run, Segment};
use vcgate_wire::ip::Headers;
use vcgate_wire::split::{self, Split};
use vcgate_wire::virtio_net::{Gso, Header};

#[derive(Parser)]
#[command(about = "A WireGuard client with offloads, for comparisons of gateways")]
struct Arguments {
    /// The name of the TUN interface
    interface: String,
    /// The file with the client's private key
    private_key_file: PathBuf,
    /// The gateway's public key
    gateway: String,
    /// The gateway's address and port
    endpoint: SocketAddr,
    /// The inner MTU, in bytes
    #[arg(long, default_value_t = 1420)]
    mtu: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("info,boringtun=off")
        .init();
    let tun = Tun::create(&arguments.interface, Offload::TcpAndUdp)?;
    let udp = Udp::bind(udp::Settings::on_port(0))?;
    let client = Client::new(&arguments, tun.offloads())?;
    let mut shard = Shard::start(client, tun, udp)?;
    println!("ready");
    // It ends by a signal, and the device vanishes with it.
    Err(shard.failed().await.into())
}

struct Client {
    tunnel: Tunnel,
    gateway: PeerId,
    gather: GroQueue,
    batch: GsoBatch,
    merge: Merge,
}

impl Client {
    fn new(arguments: &Arguments, offload: Offload) -> anyhow::Result<Self> {
        let now = Instant::now();
        let key = PrivateKey::read(&arguments.private_key_file)?;
        let mut tunnel = Tunnel::new(
            key.secret().clone(),
            arguments.mtu,
            tunnel::Shard::default(),
            rand::random(),
            now,
        );
        let gateway = PublicKey::from_base64(&arguments.gateway).context("the gateway's key")?;
        let gateway = PeerSettings {
            name: "gateway".into(),
            public_key: gateway.into(),
            preshared_key: None,
            allowed_ips: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            endpoint: Some(arguments.endpoint),
            persistent_keepalive: None,
        };
        Ok(Self {
            gateway: tunnel.add_peer(gateway, now)?,
            tunnel,
            gather: GroQueue::new(),
            batch: GsoBatch::new(udp::SEGMENTS),
            merge: Merge {
                tcp: offload >= Offload::Tcp,
                udp: offload >= Offload::TcpAndUdp,
            },
        })
    }

    /// A packet from the gateway lies at `place`: it waits for more of its flow, or leaves.
    fn decrypted(&mut self, place: Range<usize>, ecn: Ecn, out: &mut impl Output) {
        let packet = self.gather.bytes(place.clone());
        ecn.apply_to(packet);
        let Ok(headers) = Headers::parse(packet) else {
            return;
        };
        let Some(segment) = Segment::classify(&headers, packet).filter(|_| self.merges(&headers))
        else {
            // It must not overtake what waits of its flow.
            self.emit_waiting(out);
            let packet = IoSlice::new(self.gather.bytes(place));
            return out.lan_packet(&Header::default(), &[packet]);
        };
        loop {
            match self.gather.offer(self.gateway, &segment, place.clone()) {
                GroResult::Queued => return,
                GroResult::Emit(at) => return self.emit(at, out),
                GroResult::EmitThenRetry(at) => self.emit(at, out),
            }
        }
    }

    /// Whether the device takes super-packets of this kind.
    fn merges(&self, headers: &Headers) -> bool {
        match u8::from(headers.protocol) {
            6 => self.merge.tcp,
            17 => self.merge.udp,
            _ => false,
        }
    }

    fn emit(&mut self, at: usize, out: &mut impl Output) {
        let (_, run) = self.gather.take(at);
        self.emit_run(run, out);
    }

    fn emit_run(&mut self, run: Run, out: &mut impl Output) {
        let arena = self.gather.arena();
        let (_, _, header, pieces) = run.finish(arena);
        let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(&arena[piece.clone()]);
        }
        out.lan_packet(&header, &slices[..pieces.len()]);
        self.gather.recycle(run);
    }

    fn emit_waiting(&mut self, out: &mut impl Output) {
        while let Some((_, run)) = self.gather.take_oldest() {
            self.emit_run(run, out);
        }
    }

    /// All that waits leaves, and the arena is empty again.
    fn emit_all(&mut self, out: &mut impl Output) {
        self.emit_waiting(out);
        self.gather.reset();
    }

    fn seal(&mut self, packet: &[u8], now: Instant, out: &mut impl Output) {
        let Some(path) = self.tunnel.path(self.gateway).copied() else {
            return;
        };
        let len = self.tunnel.sealed_len(packet.len());
        let space = self.batch.space(&path, Ecn::of(packet).outer(), len, out);
        if let Sealed::Written(len) = self.tunnel.seal(self.gateway, packet, space, now) {
            self.batch.commit(len, out);
        }
    }

    fn transmit(&mut self, out: &mut impl Output) {
        self.batch.flush(out);
        while let Some(own) = self.tunnel.poll_transmit() {
            out.datagrams(&own.path, own.ecn, own.bytes.len(), &own.bytes);
        }
    }
}

impl Pipeline for Client {
    fn datagrams(
        &mut self,
        path: &Path,
        ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        for datagram in bytes.chunks(stride) {
            if !self.gather.has_space(datagram.len()) {
                self.emit_all(out);
            }
            let room = self.gather.tail();
            if let Received::Packet { packet, .. } = self.tunnel.receive(path, datagram, room, now)
            {
                let len = packet.len();
                let place = self.gather.commit(len);
                self.decrypted(place, ecn, out);
            }
        }
    }

    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        let Ok(headers) = Headers::parse(bytes) else {
            return ShardTarget::Local;
        };
        if header.gso == Gso::None {
            if !header.needs_csum || split::complete(header, &headers, bytes) {
                self.seal(&bytes[..headers.len], now, out);
            }
            return ShardTarget::Local;
        }
        let Some(mut split) = Split::new(header, &headers, bytes) else {
            return ShardTarget::Local;
        };
        while let Some(place) = split.next(bytes) {
            self.seal(&bytes[place], now, out);
        }
        ShardTarget::Local
    }

    fn flush(&mut self, _: Instant, out: &mut impl Output) {
        self.emit_all(out);
        self.transmit(out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        self.tunnel.handle_timeout(now);
        self.transmit(out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.tunnel.next_timeout()
    }
}
