//! The WireGuard cross-platform UAPI, the protocol of `wg show`, `set`, `setconf` and `syncconf`.
//!
//! A request that cannot be parsed changes nothing. [`text`] has the syntax, the [`Endpoint`] the
//! semantics; this file only serves connections.

pub mod device;
mod hex;
pub mod text;

use super::caller::Caller;
use super::endpoint::Endpoint;
use super::listener::{CLIENT_TIMEOUT, Connection, Listener, send_within};
use device::{Errno, UapiError};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use text::Request;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The directory in which `wg` looks for the sockets of userspace interfaces.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// Maximum length of a request in bytes: some 20,000 peers in one `wg setconf`.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// Answers requests until the future is dropped. A connection may carry several requests.
pub async fn serve<E: Endpoint + 'static>(listener: &Listener, endpoint: Rc<E>) -> Infallible {
    listener
        .serve(|connection| serve_connection(connection, Rc::clone(&endpoint)))
        .await
}

async fn serve_connection<E: Endpoint>(connection: Connection, endpoint: Rc<E>) -> io::Result<()> {
    let Connection {
        mut stream,
        waiting,
    } = connection;
    let caller = Caller::of(&stream, "wg");
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut request = Zeroizing::new(Vec::new());
    loop {
        let read = timeout(CLIENT_TIMEOUT, read_request(&mut reader, &mut request));
        let end = waiting.during(read).await??;
        let answer = match end {
            End::Hangup => return Ok(()),
            End::Blank => {
                let answer = answer(&request, &*endpoint);
                caller.run(answer).await
            }
            End::TooLong => Err(UapiError::new(Errno::Protocol, "the request is too long")),
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "refused a UAPI request");
            text::errno(error.errno.code())
        });
        let sent = send_within(CLIENT_TIMEOUT, &mut writer, answer.as_bytes());
        waiting.during(sent).await?;
        if matches!(end, End::TooLong) {
            return Ok(()); // the beginning of the next request is unknown
        }
    }
}

async fn answer<E: Endpoint>(request: &[u8], endpoint: &E) -> Result<Zeroizing<String>, UapiError> {
    match text::parse(request)? {
        Request::Get => Ok(text::state(&endpoint.uapi_get().await)),
        Request::Set(change) => {
            endpoint.uapi_set(change).await?;
            Ok(text::errno(0))
        }
    }
}

/// The ways in which a request ends.
enum End {
    /// At its blank line.
    Blank,
    /// Before its blank line: the client has disconnected.
    Hangup,
    /// It exceeds [`MAX_REQUEST`].
    TooLong,
}

/// Reads up to and including the next blank line.
async fn read_request(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    request: &mut Vec<u8>,
) -> io::Result<End> {
    request.clear();
    loop {
        let start = request.len();
        let left = MAX_REQUEST - start; // `take` below keeps this from underflow
        let mut line = (&mut *reader).take(left as u64);
        line.read_until(b'\n', request).await?;
        match request.get(start..) {
            Some(b"\n") => return Ok(End::Blank),
            Some([.., b'\n']) => {}
            _ if request.len() == MAX_REQUEST => return Ok(End::TooLong),
            _ => return Ok(End::Hangup),
        }
    }
}
