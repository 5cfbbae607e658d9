//! A WireGuard client that uses all offloads: super-packets on its TUN device and GSO on its UDP
//! socket. With a slower client, such as wireguard-go, a comparison would measure the client
//! instead of the gateway.
//!
//! It uses vcgate's modules in the client's role, without NAT, rules and hook. It sets no addresses
//! or routes: the caller does that after the client has printed "ready".

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
    // A signal ends the process and removes the device.
    Err(shard.failed().await.into())
}

struct Client {
    tunnel: Tunnel,
    gateway: PeerId,
    gro: GroQueue,
    gso: GsoBatch,
    merge: Merge,
}

impl Client {
    fn new(arguments: &Arguments, offload: Offload) -> anyhow::Result<Self> {
        let now = Instant::now();
        let key = PrivateKey::read(&arguments.private_key_file)?;
        let mut tunnel = Tunnel::new(
            key.secret().clone(),
            arguments.mtu,
            tunnel::ShardId::default(),
            rand::random(),
            now,
        );
        let gateway =
            PublicKey::from_base64(&arguments.gateway).context("invalid key of the gateway")?;
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
            gro: GroQueue::new(),
            gso: GsoBatch::new(udp::MAX_SEGMENTS),
            merge: Merge {
                tcp: offload >= Offload::Tcp,
                udp: offload >= Offload::TcpAndUdp,
            },
        })
    }

    /// Queues the decrypted packet at `place` for merging, or writes it to the device.
    fn queue_decrypted(&mut self, place: Range<usize>, ecn: Ecn, out: &mut impl Output) {
        let packet = self.gro.bytes(place.clone());
        ecn.apply_to(packet);
        let Ok(headers) = Headers::parse(packet) else {
            return;
        };
        let Some(segment) = Segment::classify(&headers, packet).filter(|_| self.merges(&headers))
        else {
            // It must not overtake queued packets of its flow.
            self.emit_queued(out);
            let packet = IoSlice::new(self.gro.bytes(place));
            return out.lan_packet(&Header::default(), &[packet]);
        };
        loop {
            match self.gro.offer(self.gateway, &segment, place.clone()) {
                GroResult::Queued => return,
                GroResult::Emit(at) => return self.emit(at, out),
                GroResult::EmitThenRetry(at) => self.emit(at, out),
            }
        }
    }

    /// Returns whether the device accepts super-packets of this protocol.
    fn merges(&self, headers: &Headers) -> bool {
        match u8::from(headers.protocol) {
            6 => self.merge.tcp,
            17 => self.merge.udp,
            _ => false,
        }
    }

    fn emit(&mut self, at: usize, out: &mut impl Output) {
        let (_, run) = self.gro.take(at);
        self.emit_run(run, out);
    }

    fn emit_run(&mut self, run: Run, out: &mut impl Output) {
        let arena = self.gro.arena();
        let (_, _, header, pieces) = run.finish(arena);
        let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(&arena[piece.clone()]);
        }
        out.lan_packet(&header, &slices[..pieces.len()]);
        self.gro.recycle(run);
    }

    fn emit_queued(&mut self, out: &mut impl Output) {
        while let Some((_, run)) = self.gro.take_oldest() {
            self.emit_run(run, out);
        }
    }

    /// Writes all queued packets and empties the arena.
    fn emit_all(&mut self, out: &mut impl Output) {
        self.emit_queued(out);
        self.gro.reset();
    }

    fn seal(&mut self, packet: &[u8], now: Instant, out: &mut impl Output) {
        let Some(path) = self.tunnel.path(self.gateway).copied() else {
            return;
        };
        let len = self.tunnel.sealed_len(packet.len());
        let space = self.gso.space(&path, Ecn::of(packet).outer(), len, out);
        if let Sealed::Written(len) = self.tunnel.seal(self.gateway, packet, space, now) {
            self.gso.commit(len, out);
        }
    }

    fn transmit(&mut self, out: &mut impl Output) {
        self.gso.flush(out);
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
            if !self.gro.has_space(datagram.len()) {
                self.emit_all(out);
            }
            let buffer = self.gro.tail();
            if let Received::Packet { packet, .. } =
                self.tunnel.receive(path, datagram, buffer, now)
            {
                let len = packet.len();
                let place = self.gro.commit(len);
                self.queue_decrypted(place, ecn, out);
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
