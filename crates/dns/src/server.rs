//! The sockets of the server: a task for each question and each connection. It knows no names.

use crate::counters::{Counters, LiveCounters};
use crate::limits::{Client, Excess, Limits};
use crate::names::Asker;
use crate::reply::Question;
use crate::resolver::Resolver;
use crate::settings::Settings;
use socket2::{Domain, Protocol, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PORT: u16 = 53;
/// Maximum number of questions of all clients that wait for an answer.
const MAX_WAITING: usize = 2000;
/// Maximum number of connections of all clients.
const MAX_CONNECTIONS: usize = 500;
/// Maximum size of a question over UDP in bytes.
const MAX_QUESTION: usize = 4096;
/// Time after which a connection without a question is closed (RFC 7766 section 6.2.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of a socket's receive buffer in bytes: some 2000 questions.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Time to wait after an error of a socket, which may be due to a lack of memory or descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The server. Its settings can be replaced while it runs.
pub struct Server(Arc<State>);

struct State {
    resolver: RwLock<Arc<Resolver>>,
    limits: Limits,
    counters: LiveCounters,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// The sockets on which clients ask.
#[derive(Debug, Default)]
pub struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Opens sockets on port 53 of an address, for packets that arrive on this device. It must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// If another program has the port, or the process may not open it. Nothing is open then.
    pub fn open(&mut self, device: &str, address: IpAddr) -> io::Result<()> {
        let bound = |kind, protocol| {
            let socket = Socket::new(Domain::for_address((address, PORT).into()), kind, protocol)?;
            socket.set_nonblocking(true)?;
            socket.bind_device(Some(device.as_bytes()))?;
            match address {
                // The address may be added to the device later, or be checked for duplicates.
                IpAddr::V4(_) => socket.set_freebind_v4(true)?,
                IpAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
            if kind == Type::STREAM {
                // Connections of an earlier run may still be closing.
                socket.set_reuse_address(true)?;
            }
            socket.bind(&SocketAddr::from((address, PORT)).into())?;
            Ok::<_, io::Error>(socket)
        };
        let udp = bound(Type::DGRAM, Some(Protocol::UDP))?;
        // Space for the questions of others while one client floods; the kernel may give less.
        let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
        let tcp = bound(Type::STREAM, Some(Protocol::TCP))?;
        tcp.listen(BACKLOG)?;
        let udp = UdpSocket::from_std(udp.into())?;
        self.tcp.push(TcpListener::from_std(tcp.into())?);
        self.udp.push(udp);
        Ok(())
    }
}

impl Server {
    /// Makes a server. It must be called within a tokio runtime.
    pub async fn new(settings: Settings) -> Self {
        Self(Arc::new(State {
            resolver: RwLock::new(Arc::new(Resolver::new(settings, None).await)),
            limits: Limits::default(),
            counters: LiveCounters::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }))
    }

    /// Replaces the settings. The cache survives, unless the servers are others.
    pub async fn set(&self, settings: Settings) {
        let old = self.0.resolver();
        let new = Arc::new(Resolver::new(settings, Some(&old)).await);
        let mut resolver = self
            .0
            .resolver
            .write()
            .unwrap_or_else(|broken| broken.into_inner());
        *resolver = new;
        self.0.limits.reset();
    }

    /// Answers one question as over UDP. `None` if no answer is due.
    pub async fn answer(&self, from: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let ticket = self.0.take_question(from)?;
        self.0.answer(ticket, question, Question::udp_size).await
    }

    /// Returns the number of questions so far, by outcome.
    pub fn counters(&self) -> Counters {
        self.0.counters.read()
    }

    /// Answers until it is dropped.
    pub async fn serve(&self, sockets: Sockets) -> Infallible {
        let mut tasks = JoinSet::new();
        for socket in sockets.udp {
            tasks.spawn(Arc::clone(&self.0).serve_udp(Arc::new(socket)));
        }
        for listener in sockets.tcp {
            tasks.spawn(Arc::clone(&self.0).serve_tcp(listener));
        }
        while tasks.join_next().await.is_some() {}
        std::future::pending().await
    }
}

/// A question that was taken, until it is answered.
struct Ticket {
    resolver: Arc<Resolver>,
    asker: Asker,
    client: Arc<Client>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl State {
    fn resolver(&self) -> Arc<Resolver> {
        let resolver = self
            .resolver
            .read()
            .unwrap_or_else(|broken| broken.into_inner());
        Arc::clone(&resolver)
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) -> Infallible {
        let mut buffer = [0; MAX_QUESTION];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a question");
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Some(ticket) = self.take_question(from.ip()) else {
                continue;
            };
            let bytes = buffer.get(..len).unwrap_or_default().to_vec();
            let (state, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(answer) = state.answer(ticket, &bytes, Question::udp_size).await {
                    // The client asks again if it is lost.
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let resolver = self.resolver();
            let asker = resolver.client(from.ip());
            let client = self.limits.of(asker, from.ip(), Instant::now());
            let all = Arc::clone(&self.connections).try_acquire_owned();
            let (Some(own), Ok(all)) = (client.connection(), all) else {
                continue;
            };
            let state = Arc::clone(&self);
            tokio::spawn(async move {
                let _permits = (own, all);
                // The client has closed the connection, or asks nothing.
                let _ = state.serve_connection(stream, from).await;
            });
        }
    }

    /// Answers the questions of a connection in their order.
    async fn serve_connection(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        loop {
            let mut len = [0; 2];
            timeout(IDLE_TIMEOUT, stream.read_exact(&mut len)).await??;
            let mut bytes = vec![0; u16::from_be_bytes(len).into()];
            timeout(IDLE_TIMEOUT, stream.read_exact(&mut bytes)).await??;
            let Some(ticket) = self.take_question(from.ip()) else {
                return Ok(());
            };
            let Some(answer) = self.answer(ticket, &bytes, |_| u16::MAX.into()).await else {
                return Ok(());
            };
            let len = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            let framed = [&len.to_be_bytes()[..], &answer].concat();
            timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await??;
        }
    }

    /// Takes a question of a client, unless there are too many.
    fn take_question(&self, from: IpAddr) -> Option<Ticket> {
        self.counters.query();
        let ticket = self.ticket(from);
        if ticket.is_none() {
            self.counters.limited();
        }
        ticket
    }

    fn ticket(&self, from: IpAddr) -> Option<Ticket> {
        let (resolver, now) = (self.resolver(), Instant::now());
        let asker = resolver.client(from);
        let client = self.limits.of(asker, from, now);
        let own = client.question(now).inspect_err(|excess| {
            if *excess == Excess::New {
                let name = resolver.client_name(asker, from);
                tracing::warn!("client {name:?} asks for too many names; questions are dropped");
            }
        });
        let all = Arc::clone(&self.waiting).try_acquire_owned();
        Some(Ticket {
            resolver,
            asker,
            client,
            _permits: [own.ok()?, all.ok()?],
        })
    }

    /// Returns the answer, if one is due; `limit` is its maximum size.
    async fn answer(
        &self,
        ticket: Ticket,
        bytes: &[u8],
        limit: impl Fn(&Question) -> usize,
    ) -> Option<Vec<u8>> {
        let (answer, source) = match Question::read(bytes) {
            Ok(question) => {
                let (resolver, client) = (&ticket.resolver, &ticket.client);
                let (answer, source) = resolver.answer(ticket.asker, client, &question).await;
                let limit = limit(&question);
                let answer = question.answer(&answer, resolver.netmap(), limit);
                (Some(answer), Some(source))
            }
            Err(refusal) => (refusal, None),
        };
        let bytes = answer.as_deref().unwrap_or_default();
        self.counters.answered(source, bytes);
        answer
    }
}

#[cfg(test)]
mod tests;
