//! `capture` on the control socket: the connection becomes a stream of packets, for as long as
//! the client does not close its own side of it.
//!
//! The endpoint is asked for what it has caught again and again, and only when the client has
//! taken the last of it: a client that is slow makes the capture lose packets, and nothing else. A
//! client that takes nothing for 30 seconds loses the capture, so that another can begin.

use super::endpoint::{Captured, Endpoint};
use super::listener::{PATIENCE, send, send_within};
use super::message::to_line;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::sleep;
use vcgate_capture::{Counts, stream};
use vcgate_core::engine::Filter;

/// How often the endpoint is asked.
const PAUSE: Duration = Duration::from_millis(10);

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
    let poured = pour(reader, writer, endpoint, &mut dropped).await;
    // Whatever became of the client.
    let rest = endpoint.capture_stop().await;
    poured?;
    let mut last = encode(rest, &mut dropped);
    stream::encode_end(dropped, &mut last);
    send_within(PATIENCE, writer, &last).await
}

/// Passes on what is captured until the client has enough.
async fn pour<E: Endpoint>(
    mut reader: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
    endpoint: &E,
    dropped: &mut Counts,
) -> io::Result<()> {
    send(writer, to_line(Ok(()))).await?;
    loop {
        tokio::select! {
            // Whatever it says: it is not to say anything.
            _ = reader.read_u8() => return Ok(()),
            () = sleep(PAUSE) => {}
        }
        let captured = encode(endpoint.capture_take().await, dropped);
        send_within(PATIENCE, writer, &captured)
            .await
            .inspect_err(|error| {
                let seconds = PATIENCE.as_secs();
                if error.kind() == io::ErrorKind::TimedOut {
                    tracing::info!("the capture ends: its reader took nothing for {seconds} s");
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
