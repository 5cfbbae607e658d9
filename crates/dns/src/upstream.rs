//! The servers that are asked, and the cache of their answers. Each question has a random identifier
//! and a port of its own, and only the server's answer to that question is accepted (RFC 5452). A
//! truncated answer is asked for again over TCP.

use crate::name::DnsName;
use bytes::Bytes;
use domain::base::iana::{Class, Rtype};
use domain::base::{Message, MessageBuilder};
use domain::net::client::protocol::{TcpConnect, UdpConnect};
use domain::net::client::request::{ComposeRequest, GetResponse, RequestMessage, SendRequest};
use domain::net::client::{cache, dgram, dgram_stream, multi_stream, redundant, stream};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

/// Time to wait for an answer before the question is sent again. Another server is asked earlier.
const READ_TIMEOUT: Duration = Duration::from_millis(1500);
/// Number of repetitions to one server.
const MAX_RETRIES: u8 = 2;
/// Time to wait for an answer over TCP.
const TCP_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of questions that wait for one server.
const MAX_PARALLEL: usize = 500;
/// Size of answers over UDP in bytes, which arrive in one packet on all paths (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;
/// Maximum number of answers in the cache: some 10 MB.
const MAX_CACHED: u64 = 10_000;
/// Maximum time for which an answer is used.
const MAX_CACHED_TIME: Duration = Duration::from_secs(24 * 3600);
/// Time for which no server is asked again after all have failed: short, since a server may be
/// restarted.
const MAX_FAILURE_TIME: Duration = Duration::from_secs(1);
/// Time for which a name that does not exist is not asked for again: a host that is switched on is
/// found after this time.
const MAX_NEGATIVE_TIME: Duration = Duration::from_secs(60);

type Request = RequestMessage<Vec<u8>>;

tokio::task_local! {
    /// Whether the question of this task was sent to the servers: the cache had no answer.
    static SENT: Cell<bool>;
}

/// Servers with a cache. Its tasks end when it is dropped.
#[derive(Clone)]
pub(crate) struct Upstream(Option<cache::Connection<Servers>>);

/// The servers after the cache.
#[derive(Clone)]
struct Servers(redundant::Connection<Request>);

impl SendRequest<Request> for Servers {
    fn send_request(&self, request: Request) -> Box<dyn GetResponse + Send + Sync> {
        // Without a task's question there is nothing to note.
        let _ = SENT.try_with(|sent| sent.set(true));
        self.0.send_request(request)
    }
}

/// The flags of a question that its answer depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    /// The client checks signatures itself (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
    /// The client wants signatures (RFC 3225).
    pub dnssec_ok: bool,
    /// The client wants to know whether the server has checked signatures (RFC 6840 section 5.7).
    pub authentic: bool,
}

impl Upstream {
    /// Connects to servers. It must be called within a tokio runtime.
    pub(crate) async fn new(servers: &[SocketAddr]) -> Self {
        if servers.is_empty() {
            return Self(None);
        }
        let mut config = redundant::Config::default();
        // The next server is asked where one fails or refuses.
        config.set_defer_transport_error(true);
        config.set_defer_refused(true);
        config.set_defer_servfail(true);
        let (all, transport) = redundant::Connection::with_config(config);
        tokio::spawn(transport.run());
        for server in servers {
            let (connection, transport) = dgram_stream::Connection::with_config(
                UdpConnect::new(*server),
                TcpConnect::new(*server),
                server_config(),
            );
            tokio::spawn(transport.run());
            let added = all.add(Box::new(connection)).await;
            debug_assert!(added.is_ok(), "the transport runs");
        }
        let mut config = cache::Config::new();
        config.set_max_cache_entries(MAX_CACHED);
        config.set_max_validity(MAX_CACHED_TIME);
        config.set_transport_failure_duration(MAX_FAILURE_TIME);
        config.set_misc_error_duration(MAX_FAILURE_TIME);
        config.set_max_nxdomain_validity(MAX_NEGATIVE_TIME);
        config.set_max_nodata_validity(MAX_NEGATIVE_TIME);
        Self(Some(cache::Connection::with_config(Servers(all), config)))
    }

    /// Whether there is no server.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Asks the cache, then the servers; returns the answer, and whether it is that of the cache. `None`
    /// if there is no server or none answers.
    pub(crate) async fn ask(
        &self,
        name: &DnsName,
        rtype: Rtype,
        flags: Flags,
    ) -> Option<(Message<Bytes>, bool)> {
        let connection = self.0.as_ref()?;
        let mut message = MessageBuilder::new_vec();
        let header = message.header_mut();
        header.set_rd(true);
        header.set_cd(flags.checking_disabled);
        header.set_ad(flags.authentic);
        let mut message = message.question();
        message.push((name, rtype, Class::IN)).ok()?;
        let mut request = RequestMessage::new(message).ok()?;
        request.set_udp_payload_size(UDP_SIZE);
        request.set_dnssec_ok(flags.dnssec_ok);
        let mut pending = connection.send_request(request);
        let answer = async {
            let answer = pending.get_response().await;
            (answer, SENT.with(Cell::get))
        };
        match SENT.scope(Cell::new(false), answer).await {
            (Ok(answer), sent) => Some((answer, !sent)),
            (Err(error), _) => {
                tracing::debug!(%name, %rtype, %error, "no DNS server answers");
                None
            }
        }
    }
}

fn server_config() -> dgram_stream::Config {
    let mut udp = dgram::Config::new();
    udp.set_max_parallel(MAX_PARALLEL);
    udp.set_read_timeout(READ_TIMEOUT);
    udp.set_max_retries(MAX_RETRIES);
    udp.set_udp_payload_size(Some(UDP_SIZE));
    let mut tcp = stream::Config::new();
    tcp.set_response_timeout(TCP_TIMEOUT);
    dgram_stream::Config::from_parts(udp, multi_stream::Config::from(tcp))
}
