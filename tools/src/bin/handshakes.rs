//! WireGuard peers that only perform handshakes: as many as possible for a given time, or one per
//! peer.
//!
//! Each peer has a separate source address, because gateways limit handshakes by source. The number
//! of pending handshakes is fixed; one without an answer is retried. Cookies are used. Keys are
//! derived from the number of the peer: `handshakes keys` prints the public ones.

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

/// Maximum number of pending handshakes.
const WINDOW: usize = 32;
/// Time after which a handshake without an answer is retried.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum time until all peers are connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Size of a buffer for a handshake message in bytes.
const BUFFER_LEN: usize = 256;

#[derive(Parser)]
#[command(about = "Measures WireGuard handshakes for comparisons of gateways")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the public key of each peer
    Keys {
        /// Number of peers
        peers: u32,
    },
    /// Perform one handshake per peer and print the number of completed ones
    Connect {
        /// Number of peers
        peers: u32,
        /// The gateway's public key
        gateway: String,
        /// The gateway's address and port
        endpoint: SocketAddr,
        /// The address of peer 0; those of the others follow it
        first: Ipv4Addr,
    },
    /// Perform handshakes and print the number of completed ones
    Run {
        /// Number of peers
        peers: u32,
        /// The gateway's public key
        gateway: String,
        /// The gateway's address and port
        endpoint: SocketAddr,
        /// The address of peer 0; those of the others follow it
        first: Ipv4Addr,
        /// Duration in seconds
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
            let mut all = Peers::new(peers, &gateway, endpoint, first)?;
            println!("{}", all.run(CONNECT_TIMEOUT, Some(peers.into())).await?);
        }
        Command::Run {
            peers,
            gateway,
            endpoint,
            first,
            seconds,
        } => {
            let mut all = Peers::new(peers, &gateway, endpoint, first)?;
            println!("{}", all.run(Duration::from_secs(seconds), None).await?);
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
    /// Start of the pending handshake.
    started: Option<Instant>,
}

/// All peers, which share one socket.
struct Peers {
    peers: Vec<Peer>,
    by_address: HashMap<IpAddr, usize>,
    idle: VecDeque<usize>,
    udp: Udp,
    completed: u64,
}

impl Peers {
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
            started: None,
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

    /// Performs handshakes for `time`, or until `limit` are complete; returns the number completed.
    async fn run(&mut self, time: Duration, limit: Option<u64>) -> io::Result<u64> {
        let end = Instant::now() + time;
        // A duplicate of the descriptor, for tokio to poll.
        let ready = UdpSocket::from_std(self.udp.as_fd().try_clone_to_owned()?.into())?;
        let mut inbox = Inbox::new();
        while Instant::now() < end && limit.is_none_or(|limit| self.completed < limit) {
            self.expire();
            while self.peers.len() - self.idle.len() < WINDOW {
                self.initiate();
            }
            if timeout(HANDSHAKE_TIMEOUT, ready.readable()).await.is_err() {
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
                    self.on_datagram(at, datagram);
                }
            }
        }
        Ok(self.completed)
    }

    /// Starts a handshake of the peer that has been idle longest.
    fn initiate(&mut self) {
        let Some(at) = self.idle.pop_front() else {
            return;
        };
        let peer = &mut self.peers[at];
        peer.started = Some(Instant::now());
        let mut buffer = [0; BUFFER_LEN];
        if let TunnResult::WriteToNetwork(bytes) =
            peer.tunn.format_handshake_initiation(&mut buffer, true)
        {
            send(&mut self.udp, &peer.path, bytes);
        }
    }

    fn on_datagram(&mut self, at: usize, datagram: &[u8]) {
        let peer = &mut self.peers[at];
        let mut buffer = [0; BUFFER_LEN];
        // A response is answered with a keepalive, which confirms the session. A cookie is used in
        // the next initiation.
        match peer.tunn.decapsulate(None, datagram, &mut buffer) {
            TunnResult::WriteToNetwork(bytes) => {
                send(&mut self.udp, &peer.path, bytes);
                self.completed += 1;
            }
            TunnResult::Done => {}
            _ => return,
        }
        if peer.started.take().is_some() {
            self.idle.push_back(at);
        }
    }

    fn expire(&mut self) {
        for (peer, at) in self.peers.iter_mut().zip(0..) {
            if peer
                .started
                .is_some_and(|started| started.elapsed() > HANDSHAKE_TIMEOUT)
            {
                peer.started = None;
                self.idle.push_back(at);
            }
        }
    }
}

fn send(udp: &mut Udp, path: &Path, bytes: &[u8]) {
    udp.send(path, Ecn::default(), bytes.len(), bytes);
}
