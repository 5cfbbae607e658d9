//! Many WireGuard clients in one process: each has keys, a UDP socket on an address of its own and
//! a session; they share one TUN device, which hands each packet to the client of its source address.
//!
//! So plain sockets bound to the clients' inner addresses are clients behind a hundred tunnels. On
//! a Unix socket a client can be told to crash: from then on nothing goes in or out, and its
//! WireGuard session is gone; when it returns, a new one begins, from another port. It sets no
//! addresses or routes: who starts it does, after it has printed "ready".

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

/// Packets that wait for one client; more are dropped, as an interface does.
const QUEUE: usize = 512;
/// WireGuard's timers are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// Room for any packet or datagram here, in bytes.
const ROOM: usize = 2048;

#[derive(Parser)]
#[command(about = "Many WireGuard clients behind one TUN device, for the lab")]
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
            let mut crowd = Crowd {
                clients: clients.collect::<anyhow::Result<_>>()?,
                device: Rc::new(device),
                gateway,
                alive: HashMap::new(),
            };
            crowd.work(listener).await
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
    /// One line of the file: the inner address, and the rest.
    fn parse(line: &str) -> anyhow::Result<(Ipv4Addr, Self)> {
        let [key, outer, inner] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("a line of the clients' file has not three fields");
        };
        let key = PrivateKey::from_base64(key)?;
        let outer = outer.parse()?;
        Ok((inner.parse()?, Self { key, outer }))
    }
}

/// A client that has not crashed.
struct Life {
    packets: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Command = (String, oneshot::Sender<&'static str>);

/// All clients, by inner address.
struct Crowd {
    clients: HashMap<Ipv4Addr, Client>,
    device: Rc<File>,
    gateway: Gateway,
    alive: HashMap<Ipv4Addr, Life>,
}

impl Crowd {
    async fn work(&mut self, listener: UnixListener) -> anyhow::Result<()> {
        for inner in self.clients.keys().copied().collect::<Vec<_>>() {
            self.begin(inner).await?;
        }
        let (commands, mut told) = mpsc::channel(1);
        spawn_local(listen(listener, commands));
        let packets = pipe::Receiver::from_file_unchecked(self.device.try_clone()?)?;
        let mut packet = [0; ROOM];
        println!("ready");
        // It ends by a signal, and the device vanishes with it.
        loop {
            tokio::select! {
                ready = packets.readable() => {
                    ready?;
                    // Not `read`, which takes a short packet for the end of what waits.
                    while let Ok(len) = packets.try_read(&mut packet) {
                        self.dispatch(&packet[..len]);
                    }
                }
                Some((line, answer)) = told.recv() => {
                    self.obey(&line).await.context(line)?;
                    // Who asked may be gone.
                    let _ = answer.send("ok\n");
                }
            }
        }
    }

    async fn obey(&mut self, line: &str) -> anyhow::Result<()> {
        match line.split_once(' ') {
            Some(("crash", inner)) => drop(self.alive.remove(&inner.parse()?)),
            Some(("return", inner)) => self.begin(inner.parse()?).await?,
            _ => bail!("no such command"),
        }
        Ok(())
    }

    /// A client with a new socket and a new session.
    async fn begin(&mut self, inner: Ipv4Addr) -> anyhow::Result<()> {
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
        let (packets, queue) = mpsc::channel(QUEUE);
        let task = spawn_local(tunnel.live(queue));
        self.alive.insert(inner, Life { packets, task });
        Ok(())
    }

    /// A packet from the kernel, to whom its IPv4 source address belongs.
    fn dispatch(&self, packet: &[u8]) {
        let source = packet.get(12..16).and_then(|s| <[u8; 4]>::try_from(s).ok());
        let life = source.and_then(|source| self.alive.get(&source.into()));
        if let Some(life) = life.filter(|_| packet[0] >> 4 == 4) {
            // A full queue drops.
            let _ = life.packets.try_send(packet.to_vec());
        }
    }
}

/// One client at work.
struct Tunnel {
    noise: Tunn,
    socket: UdpSocket,
    device: Rc<File>,
}

impl Tunnel {
    async fn live(mut self, mut packets: mpsc::Receiver<Vec<u8>>) {
        let mut tick = tokio::time::interval(TICK);
        let (mut datagram, mut room) = ([0; ROOM], [0; ROOM]);
        loop {
            tokio::select! {
                Some(packet) = packets.recv() => {
                    let result = self.noise.encapsulate(&packet, &mut room);
                    carry(&self.socket, &self.device, result).await;
                }
                received = self.socket.recv(&mut datagram) => {
                    // An error is what ICMP says of an earlier datagram.
                    let Ok(len) = received else { continue };
                    let result = self.noise.decapsulate(None, &datagram[..len], &mut room);
                    let mut more = carry(&self.socket, &self.device, result).await;
                    // After a handshake, what waited for it (boringtun wants to be asked).
                    while more {
                        let result = self.noise.decapsulate(None, &[], &mut room);
                        more = carry(&self.socket, &self.device, result).await;
                    }
                }
                _ = tick.tick() => {
                    let result = self.noise.update_timers(&mut room);
                    carry(&self.socket, &self.device, result).await;
                }
            }
        }
    }
}

/// Brings what a session made to its place; true if it went to the network. Losses are the
/// network's affair: TCP inside mends them.
async fn carry(socket: &UdpSocket, mut device: &File, result: TunnResult<'_>) -> bool {
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

/// Commands of any number of connections, one after another.
async fn listen(listener: UnixListener, commands: mpsc::Sender<Command>) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_local(converse(stream, commands.clone()));
    }
}

async fn converse(stream: UnixStream, commands: mpsc::Sender<Command>) -> Option<()> {
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
