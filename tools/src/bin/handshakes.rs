//! Many WireGuard peers that do nothing but handshakes: how many a gateway answers in a second, or
//! one each, after which they are idle.
//!
//! Each peer has an address of its own, because gateways limit handshakes by source. A fixed
//! number of handshakes is under way at any time, each begun when another is complete; one that
//! gets no answer is begun again. Cookies are taken and used. Keys follow from the peer's number:
//! `handshakes keys` prints the public ones.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use clap::{Parser, Subcommand};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use vcgate::keys;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_io::udp::{Inbox, Settings, Udp};

/// Handshakes under way at any time.
const WINDOW: usize = 32;
/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// All peers are connected by then, or something is wrong.
const CONNECT: Duration = Duration::from_secs(120);
/// The longest message of a handshake is shorter.
const ROOM: usize = 256;

#[derive(Parser)]
#[command(about = "Handshakes a second, for comparisons of gateways")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the peers' public keys, a line each
    Keys {
        /// How many peers
        peers: u32,
    },
    /// Do one handshake for each peer and print how many were completed
    Connect {
        /// How many peers
        peers: u32,
        /// The gateway's public key
        gateway: String,
        /// The gateway's address and port
        endpoint: SocketAddr,
        /// The address of peer 0; the others' follow
        first: Ipv4Addr,
    },
    /// Do handshakes and print how many were completed
    Run {
        /// How many peers
        peers: u32,
        /// The gateway's public key
        gateway: String,
        /// The gateway's address and port
        endpoint: SocketAddr,
        /// The address of peer 0; the others' follow
        first: Ipv4Addr,
        /// How long
        seconds: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Keys { peers } => {
            for number in 0..peers {
                let key = PublicKey::from(&secret(number));
                println!("{}", keys::PublicKey::from(*key.as_bytes()));
            }
        }
        Command::Connect {
            peers,
            gateway,
            endpoint,
            first,
        } => {
            let mut crowd = Crowd::new(peers, &gateway, endpoint, first)?;
            println!("{}", crowd.work(CONNECT, Some(peers.into())).await?);
        }
        Command::Run {
            peers,
            gateway,
            endpoint,
            first,
            seconds,
        } => {
            let mut crowd = Crowd::new(peers, &gateway, endpoint, first)?;
            println!("{}", crowd.work(Duration::from_secs(seconds), None).await?);
        }
    }
    Ok(())
}

fn secret(number: u32) -> StaticSecret {
    let mut key = [0x5A; 32];
    key[8..12].copy_from_slice(&number.to_le_bytes());
    key.into()
}

struct Peer {
    tunn: Tunn,
    path: Path,
    /// When the handshake that is under way began.
    begun: Option<Instant>,
}

/// All peers, behind one socket.
struct Crowd {
    peers: Vec<Peer>,
    by_address: HashMap<IpAddr, usize>,
    idle: VecDeque<usize>,
    udp: Udp,
    completed: u64,
}

impl Crowd {
    fn new(
        peers: u32,
        gateway: &str,
        endpoint: SocketAddr,
        first: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let gateway = keys::PublicKey::from_base64(gateway)?.into();
        let peer = |number: u32| Peer {
            tunn: Tunn::new(secret(number), gateway, None, None, number, None),
            path: Path {
                remote: endpoint,
                local: Some(Ipv4Addr::from(u32::from(first) + number).into()),
            },
            begun: None,
        };
        let peers: Vec<Peer> = (0..peers).map(peer).collect();
        let by_address = peers.iter().zip(0..);
        Ok(Self {
            by_address: by_address
                .filter_map(|(peer, at)| Some((peer.path.local?, at)))
                .collect(),
            idle: (0..peers.len()).collect(),
            peers,
            udp: Udp::bind(Settings::on_port(0))?,
            completed: 0,
        })
    }

    /// Does handshakes for `time`, or until so many are complete; how many were.
    async fn work(&mut self, time: Duration, enough: Option<u64>) -> io::Result<u64> {
        let end = Instant::now() + time;
        // Another descriptor of the same socket, to wait for it.
        let ready = UdpSocket::from_std(self.udp.as_fd().try_clone_to_owned()?.into())?;
        let mut inbox = Inbox::new();
        while Instant::now() < end && enough.is_none_or(|enough| self.completed < enough) {
            self.give_up();
            while self.peers.len() - self.idle.len() < WINDOW {
                self.begin();
            }
            if timeout(PATIENCE, ready.readable()).await.is_err() {
                continue;
            }
            let received = ready.try_io(Interest::READABLE, || {
                match self.udp.receive(&mut inbox)? {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match received {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                result => result?,
            }
            for burst in inbox.bursts() {
                let at = burst.path.local.and_then(|to| self.by_address.get(&to));
                let Some(&at) = at else { continue };
                for datagram in burst.bytes.chunks(burst.stride) {
                    self.answered(at, datagram);
                }
            }
        }
        Ok(self.completed)
    }

    /// The peer that has rested longest begins a handshake.
    fn begin(&mut self) {
        let Some(at) = self.idle.pop_front() else {
            return;
        };
        let peer = &mut self.peers[at];
        peer.begun = Some(Instant::now());
        let mut room = [0; ROOM];
        if let TunnResult::WriteToNetwork(bytes) =
            peer.tunn.format_handshake_initiation(&mut room, true)
        {
            send(&mut self.udp, &peer.path, bytes);
        }
    }

    fn answered(&mut self, at: usize, datagram: &[u8]) {
        let peer = &mut self.peers[at];
        let mut room = [0; ROOM];
        // A response is answered with a keepalive, and the session stands. A cookie is kept for the
        // next initiation, which is due at once.
        match peer.tunn.decapsulate(None, datagram, &mut room) {
            TunnResult::WriteToNetwork(bytes) => {
                send(&mut self.udp, &peer.path, bytes);
                self.completed += 1;
            }
            TunnResult::Done => {}
            _ => return,
        }
        if peer.begun.take().is_some() {
            self.idle.push_back(at);
        }
    }

    fn give_up(&mut self) {
        for (peer, at) in self.peers.iter_mut().zip(0..) {
            if peer.begun.is_some_and(|begun| begun.elapsed() > PATIENCE) {
                peer.begun = None;
                self.idle.push_back(at);
            }
        }
    }
}

fn send(udp: &mut Udp, path: &Path, bytes: &[u8]) {
    udp.send(path, Ecn::default(), bytes.len(), bytes);
}
