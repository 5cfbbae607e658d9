//! `capture` on the control socket: the connection carries captured packets until the client closes
//! its side of it.
//!
//! The endpoint is polled, and only after the client has read the previous packets: a slow client
//! makes the capture lose packets, but never delays the endpoint. If a client reads nothing for
//! 30 seconds, its capture ends, so that another client can start one.

use super::endpoint::{Captured, Endpoint};
use super::listener::{CLIENT_TIMEOUT, send, send_within};
use super::message::to_line;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::sleep;
use vcgate_capture::{Counts, stream};
use vcgate_core::engine::Filter;

/// Time between two polls of the endpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Serves one capture to its end.
pub(super) async fn serve<E: Endpoint>(
    filter: Filter,
    reader: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
    endpoint: &E,
) -> io::Result<()> {
    if let Err(refusal) = endpoint.capture_start(filter).await {
        return send(writer, to_line::<()>(Err(refusal))).await;
    }
    let mut dropped = Counts::default();
    let streamed = stream_packets(reader, writer, endpoint, &mut dropped).await;
    // The capture ends also if the client has failed.
    let rest = endpoint.capture_stop().await;
    streamed?;
    let mut last = encode(rest, &mut dropped);
    stream::encode_end(dropped, &mut last);
    send_within(CLIENT_TIMEOUT, writer, &last).await
}

/// Sends captured packets until the client closes its side.
async fn stream_packets<E: Endpoint>(
    mut reader: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
    endpoint: &E,
    dropped: &mut Counts,
) -> io::Result<()> {
    send(writer, to_line(Ok(()))).await?;
    loop {
        tokio::select! {
            // Any byte ends the capture: the protocol has none here.
            _ = reader.read_u8() => return Ok(()),
            () = sleep(POLL_INTERVAL) => {}
        }
        let captured = encode(endpoint.capture_take().await, dropped);
        send_within(CLIENT_TIMEOUT, writer, &captured)
            .await
            .inspect_err(|error| {
                let seconds = CLIENT_TIMEOUT.as_secs();
                if error.kind() == io::ErrorKind::TimedOut {
                    tracing::info!("ended the capture: its client read nothing for {seconds} s");
                }
            })?;
    }
}

fn encode(captured: Captured, dropped: &mut Counts) -> Vec<u8> {
    *dropped += captured.dropped;
    let mut bytes = Vec::new();
    for packet in captured.packets {
        stream::encode(packet, &mut bytes);
    }
    bytes
}
