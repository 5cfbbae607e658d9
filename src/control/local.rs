//! Requests of other threads of the endpoint's process, in the protocol of the control socket.
//!
//! The administration API uses it: its thread may open no sockets, and each request carries the
//! administrator, who is logged with the change.

use super::caller::Caller;
use super::endpoint::Endpoint;
use super::message::Request;
use super::socket::{answer, refuse};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::Span;
use zeroize::Zeroizing;

/// Maximum number of requests that wait.
const QUEUE: usize = 16;

/// A request, and the receiver of its answer.
#[derive(Debug)]
pub(crate) struct LocalRequest {
    line: Zeroizing<Vec<u8>>,
    span: Span,
    author: Caller,
    answer: SyncSender<Vec<u8>>,
}

/// The queue to the control plane.
#[derive(Debug, Clone)]
pub(crate) struct LocalSender(Sender<LocalRequest>);

/// A person or program on whose behalf requests are sent.
#[derive(Debug, Clone)]
pub(crate) struct LocalCaller {
    sender: LocalSender,
    /// The span of the log events that its requests cause.
    span: Span,
    author: Caller,
}

/// Makes the queue to the control plane.
pub(crate) fn queue() -> (LocalSender, Receiver<LocalRequest>) {
    let (sender, receiver) = channel(QUEUE);
    (LocalSender(sender), receiver)
}

impl LocalSender {
    /// Returns the sender of an administrator's requests, whose events are logged in a span.
    pub(crate) fn caller(&self, span: Span, user: &str) -> LocalCaller {
        LocalCaller {
            sender: self.clone(),
            span,
            author: Caller::admin(user),
        }
    }
}

impl LocalCaller {
    /// Sends a request and waits for its answer. Not for a thread that serves a tokio runtime.
    ///
    /// # Errors
    /// `TimedOut` if there is no answer in time, `ConnectionRefused` if the endpoint stops.
    pub(super) fn request(&self, request: &Request, limit: Duration) -> io::Result<Vec<u8>> {
        let (answer, answered) = sync_channel(1);
        let request = LocalRequest {
            line: Zeroizing::new(serde_json::to_vec(request)?),
            span: self.span.clone(),
            author: self.author.clone(),
            answer,
        };
        let sent = self.sender.0.try_send(request);
        sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        answered.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => io::ErrorKind::ConnectionRefused.into(),
        })
    }
}

/// Answers requests until the future is dropped.
pub(crate) async fn serve<E: Endpoint>(
    mut requests: Receiver<LocalRequest>,
    endpoint: Rc<E>,
) -> Infallible {
    while let Some(request) = requests.recv().await {
        let line = match serde_json::from_slice(&request.line) {
            Ok(decoded) => {
                let answer = answer(decoded, &*endpoint);
                request.author.run_within(request.span, answer).await
            }
            Err(error) => refuse(format!("not a request that this version knows: {error}")),
        };
        // The caller may have given up.
        let _ = request.answer.try_send(line);
    }
    pending().await
}
