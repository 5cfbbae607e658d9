//! The WireGuard cross-platform UAPI: what `wg show`, `set`, `setconf` and `syncconf` speak.
//!
//! A request is carried out whole or, if it cannot be understood, not at all. [`text`] knows the
//! language, the [`Endpoint`] the meaning; this file only listens and answers.

pub mod device;
mod hex;
pub mod text;

use super::endpoint::Endpoint;
use super::listener::{Connection, Listener, PATIENCE, caller, send_within};
use device::{Errno, UapiError};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use text::Request;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;
use tracing::Instrument as _;
use zeroize::Zeroizing;

/// Where `wg` looks for the sockets of userspace interfaces.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// The longest request: some 20,000 peers in one `wg setconf`.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// Answers requests until the future is dropped. Several requests may use one connection.
pub async fn serve<E: Endpoint + 'static>(listener: &Listener, endpoint: Rc<E>) -> Infallible {
    let converse = |connection| converse(connection, Rc::clone(&endpoint));
    listener.serve(converse).await
}

async fn converse<E: Endpoint>(connection: Connection, endpoint: Rc<E>) -> io::Result<()> {
    let Connection {
        mut stream,
        waiting,
    } = connection;
    let caller = caller(&stream, "wg");
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut request = Zeroizing::new(Vec::new());
    loop {
        let read = timeout(PATIENCE, read_request(&mut reader, &mut request));
        let end = waiting.during(read).await??;
        let answer = match end {
            End::Hangup => return Ok(()),
            End::Blank => {
                let answer = answer(&request, &*endpoint);
                answer.instrument(caller.clone()).await
            }
            End::TooLong => Err(UapiError::new(Errno::Protocol, "the request is too long")),
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "refused a UAPI request");
            text::errno(error.errno.code())
        });
        let sent = send_within(PATIENCE, &mut writer, answer.as_bytes());
        waiting.during(sent).await?;
        if matches!(end, End::TooLong) {
            return Ok(()); // where the next one begins, nobody can say
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

/// Where a request ended.
enum End {
    /// At its blank line, as it should.
    Blank,
    /// In the middle, or before it began: the client is gone.
    Hangup,
    /// Not within [`MAX_REQUEST`].
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
        let room = MAX_REQUEST - start; // `take` below keeps this from underflow
        let mut line = (&mut *reader).take(room as u64);
        line.read_until(b'\n', request).await?;
        match request.get(start..) {
            Some(b"\n") => return Ok(End::Blank),
            Some([.., b'\n']) => {}
            _ if request.len() == MAX_REQUEST => return Ok(End::TooLong),
            _ => return Ok(End::Hangup),
        }
    }
}
