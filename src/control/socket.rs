//! The server of vcgate's control socket, `/run/vcgate/NAME.sock`: it decodes requests and calls
//! the endpoint, without decisions of its own.

use super::caller::Caller;
use super::capture;
use super::endpoint::{Endpoint, Refusal};
use super::listener::{CLIENT_TIMEOUT, Connection, Listener, send};
use super::message::{MAX_REQUEST, Request, to_line};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The directory of the control sockets of running endpoints.
pub const DIRECTORY: &str = "/run/vcgate";

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
    let caller = Caller::of(&stream, "command");
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Zeroizing::new(Vec::new()); // a request may carry a preshared key
    loop {
        line.clear();
        let mut request = (&mut reader).take(MAX_REQUEST);
        let read = timeout(CLIENT_TIMEOUT, request.read_until(b'\n', &mut line));
        waiting.during(read).await??;
        if !line.ends_with(b"\n") {
            if request.limit() == 0 {
                let too_long = refuse(format!("a request is at most {MAX_REQUEST} bytes long"));
                send(&mut writer, too_long).await?;
            }
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Request::Capture { filter }) => {
                return capture::serve(filter, reader, &mut writer, &*endpoint).await;
            }
            Ok(request) => caller.run(answer(request, &*endpoint)).await,
            Err(error) => refuse(format!("not a request that this version knows: {error}")),
        };
        waiting.during(send(&mut writer, answer)).await?;
    }
}

pub(super) async fn answer<E: Endpoint>(request: Request, endpoint: &E) -> Vec<u8> {
    match request {
        Request::Status => to_line(Ok(endpoint.status().await)),
        Request::Flows => to_line(Ok(endpoint.flows().await)),
        Request::Smb => to_line(Ok(endpoint.smb().await)),
        Request::Timeline { from } => to_line(Ok(endpoint.timeline(from).await)),
        // Handled by `serve_connection`.
        Request::Capture { .. } => refuse("a capture needs a connection of its own".into()),
        Request::Reload => to_line(Ok(endpoint.reload().await)),
        Request::LogLevel { level } => to_line(endpoint.log_level(level).await),
        Request::PeerAdd { peer } => to_line(endpoint.peer_add(peer).await),
        Request::ForwardAdd { forward } => to_line(endpoint.forward_add(forward).await),
        Request::ForwardRemove { forward } => to_line(endpoint.forward_remove(forward).await),
        Request::PeerSet { before, peer } => to_line(endpoint.peer_set(before, peer).await),
        Request::PeerLink {
            peer,
            valid_seconds,
        } => {
            let valid = Duration::from_secs(valid_seconds);
            to_line(endpoint.peer_link(&peer, valid).await)
        }
        Request::PeerRemove { peer } => to_line(endpoint.peer_remove(&peer).await),
    }
}

pub(super) fn refuse(message: String) -> Vec<u8> {
    to_line::<()>(Err(Refusal {
        message,
        remedy: None,
    }))
}
