//! Many WireGuard clients in one process. Each has a key, a UDP socket with a separate address and a
//! session; all share one TUN device, and each packet goes to the client of its source address.
//!
//! A socket that is bound to an inner address therefore uses the tunnel of that client. Commands on
//! a Unix socket crash a client, which drops its traffic and its WireGuard session, and restart it
//! with a new session from another port. The program sets no addresses or routes: the caller does
//! that after the program has printed "ready".

use anyhow::{Context, bail};
use boringtun::noise::{Tunn, TunnResult};
use clap::Parser;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{UdpSocket, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use vcgate::keys::{PrivateKey, PublicKey};
use vcgate_io::tun::{Offload, Tun};

/// Maximum number of queued packets per client; more are dropped.
const QUEUE_CAPACITY: usize = 512;
/// Interval of WireGuard's timers.
const TIMER_INTERVAL: Duration = Duration::from_millis(250);
/// Size of a buffer for a packet or datagram in bytes.
const BUFFER_LEN: usize = 2048;

#[derive(Parser)]
#[command(about = "Runs many WireGuard clients on one TUN device, for the lab")]
struct Arguments {
    /// The name of the TUN interface
    interface: String,
    /// A file with a line for each client: private key, outer address, inner address
    clients: PathBuf,
    /// The gateway's public key
    gateway: String,
    /// The gateway's address and port
    endpoint: SocketAddr,
    /// The Unix socket for commands: lines of "crash INNER" or "return INNER", each answered by "ok"
    commands: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let gateway = Gateway {
        key: PublicKey::from_base64(&arguments.gateway)?,
        endpoint: arguments.endpoint,
    };
    let clients = std::fs::read_to_string(&arguments.clients)?;
    let clients = clients.lines().map(Client::parse);
    // Without offloads the device is a plain file of packets. It lives as long as `tun`.
    let tun = Tun::create(&arguments.interface, Offload::None)?;
    let device = File::from(tun.as_fd().try_clone_to_owned()?);
    let listener = UnixListener::bind(&arguments.commands)?;
    LocalSet::new()
        .run_until(async {
            let mut all = Clients {
                clients: clients.collect::<anyhow::Result<_>>()?,
                device: Rc::new(device),
                gateway,
                running: HashMap::new(),
            };
            all.run(listener).await
        })
        .await
}

struct Gateway {
    key: PublicKey,
    endpoint: SocketAddr,
}

struct Client {
    key: PrivateKey,
    outer: Ipv4Addr,
}

impl Client {
    /// Parses a line of the file; returns the inner address and the client.
    fn parse(line: &str) -> anyhow::Result<(Ipv4Addr, Self)> {
        let [key, outer, inner] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("cannot parse a line of the clients' file: expected 3 fields");
        };
        let key = PrivateKey::from_base64(key)?;
        let outer = outer.parse()?;
        Ok((inner.parse()?, Self { key, outer }))
    }
}

/// A running client.
struct RunningClient {
    packets: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Command = (String, oneshot::Sender<&'static str>);

/// All clients, by inner address.
struct Clients {
    clients: HashMap<Ipv4Addr, Client>,
    device: Rc<File>,
    gateway: Gateway,
    running: HashMap<Ipv4Addr, RunningClient>,
}

impl Clients {
    async fn run(&mut self, listener: UnixListener) -> anyhow::Result<()> {
        for inner in self.clients.keys().copied().collect::<Vec<_>>() {
            self.start(inner).await?;
        }
        let (commands, mut received) = mpsc::channel(1);
        spawn_local(listen(listener, commands));
        let packets = pipe::Receiver::from_file_unchecked(self.device.try_clone()?)?;
        let mut packet = [0; BUFFER_LEN];
        println!("ready");
        // A signal ends the process and removes the device.
        loop {
            tokio::select! {
                ready = packets.readable() => {
                    ready?;
                    // Not `read`, which stops after a short packet even if more are queued.
                    while let Ok(len) = packets.try_read(&mut packet) {
                        self.dispatch(&packet[..len]);
                    }
                }
                Some((line, answer)) = received.recv() => {
                    self.run_command(&line).await.context(line)?;
                    // The connection may be closed.
                    let _ = answer.send("ok\n");
                }
            }
        }
    }

    async fn run_command(&mut self, line: &str) -> anyhow::Result<()> {
        match line.split_once(' ') {
            Some(("crash", inner)) => drop(self.running.remove(&inner.parse()?)),
            Some(("return", inner)) => self.start(inner.parse()?).await?,
            _ => bail!("no such command"),
        }
        Ok(())
    }

    /// Starts a client with a new socket and a new session.
    async fn start(&mut self, inner: Ipv4Addr) -> anyhow::Result<()> {
        let client = self.clients.get(&inner).context("no such client")?;
        let socket = UdpSocket::bind((client.outer, 0)).await?;
        socket.connect(self.gateway.endpoint).await?;
        let key = client.key.secret().clone();
        let tunnel = Tunnel {
            noise: Tunn::new(
                key,
                self.gateway.key.into(),
                None,
                None,
                rand::random(),
                None,
            ),
            socket,
            device: self.device.clone(),
        };
        let (packets, queue) = mpsc::channel(QUEUE_CAPACITY);
        let task = spawn_local(tunnel.run(queue));
        self.running.insert(inner, RunningClient { packets, task });
        Ok(())
    }

    /// Passes a packet from the kernel to the client of its IPv4 source address.
    fn dispatch(&self, packet: &[u8]) {
        let source = packet.get(12..16).and_then(|s| <[u8; 4]>::try_from(s).ok());
        let client = source.and_then(|source| self.running.get(&source.into()));
        if let Some(client) = client.filter(|_| packet[0] >> 4 == 4) {
            // A full queue drops the packet.
            let _ = client.packets.try_send(packet.to_vec());
        }
    }
}

/// The tunnel of a running client.
struct Tunnel {
    noise: Tunn,
    socket: UdpSocket,
    device: Rc<File>,
}

impl Tunnel {
    async fn run(mut self, mut packets: mpsc::Receiver<Vec<u8>>) {
        let mut tick = tokio::time::interval(TIMER_INTERVAL);
        let (mut datagram, mut buffer) = ([0; BUFFER_LEN], [0; BUFFER_LEN]);
        loop {
            tokio::select! {
                Some(packet) = packets.recv() => {
                    let result = self.noise.encapsulate(&packet, &mut buffer);
                    forward(&self.socket, &self.device, result).await;
                }
                received = self.socket.recv(&mut datagram) => {
                    // An error reports an ICMP error for an earlier datagram.
                    let Ok(len) = received else { continue };
                    let result = self.noise.decapsulate(None, &datagram[..len], &mut buffer);
                    let mut more = forward(&self.socket, &self.device, result).await;
                    // After a handshake, boringtun returns its queued packets on empty input.
                    while more {
                        let result = self.noise.decapsulate(None, &[], &mut buffer);
                        more = forward(&self.socket, &self.device, result).await;
                    }
                }
                _ = tick.tick() => {
                    let result = self.noise.update_timers(&mut buffer);
                    forward(&self.socket, &self.device, result).await;
                }
            }
        }
    }
}

/// Sends the output of a session; returns true if it was a datagram. Send errors count as loss.
async fn forward(socket: &UdpSocket, mut device: &File, result: TunnResult<'_>) -> bool {
    match result {
        TunnResult::WriteToNetwork(bytes) => {
            let _ = socket.send(bytes).await;
            true
        }
        TunnResult::WriteToTunnelV4(packet, _) => {
            let _ = device.write(packet);
            false
        }
        _ => false,
    }
}

/// Accepts connections and forwards their commands.
async fn listen(listener: UnixListener, commands: mpsc::Sender<Command>) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_local(serve_connection(stream, commands.clone()));
    }
}

async fn serve_connection(stream: UnixStream, commands: mpsc::Sender<Command>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    loop {
        let line = lines.next_line().await.ok()??;
        let (answer, answered) = oneshot::channel();
        commands.send((line, answer)).await.ok()?;
        write
            .write_all(answered.await.ok()?.as_bytes())
            .await
            .ok()?;
    }
}
