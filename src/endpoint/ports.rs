//! Who has which ports, on its way from the shard to the log (RFC 6888 REQ-12 to 14).
//!
//! Notes are rare (one a block, not one a flow) and none is dropped: their queue has no bound.

use super::EndpointError;
use crate::config::{self, Forward, Transport};
use crate::control::portlog::{Ports, Timestamp, Writer};
use crate::nat::{BLOCK, BlockEvent};
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::SystemTime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The log, if the configuration wants one, and the way to it.
pub(super) struct PortLog {
    writer: Option<Writer>,
    queue: UnboundedSender<Note>,
    notes: UnboundedReceiver<Note>,
}

/// What is to be written down.
#[derive(Debug)]
enum Note {
    Given(Ports, SystemTime),
    Returned(u16, u16, Option<Transport>, SystemTime),
}

impl PortLog {
    pub(super) fn open(settings: Option<&config::PortLog>) -> Result<Self, EndpointError> {
        let open = |settings: &config::PortLog| {
            let writer = Writer::open(settings, SystemTime::now().into());
            writer.map_err(|source| EndpointError::PortLog {
                file: settings.file.clone(),
                source,
            })
        };
        let (queue, notes) = unbounded_channel();
        Ok(Self {
            writer: settings.map(open).transpose()?,
            queue,
            notes,
        })
    }

    /// A way to the log, for ports of this LAN address.
    pub(super) fn sender(&self, lan_address: IpAddr) -> Sender {
        Sender {
            queue: self.writer.as_ref().map(|_| self.queue.clone()),
            lan_address,
        }
    }

    /// Writes what comes, until the endpoint stops.
    pub(super) async fn follow(&mut self) -> Infallible {
        while let Some(note) = self.notes.recv().await {
            self.write(note);
        }
        std::future::pending().await
    }

    /// Writes what has come, and the end.
    pub(super) fn stop(mut self) {
        while let Ok(note) = self.notes.try_recv() {
            self.write(note);
        }
        if let Some(writer) = self.writer {
            writer.stop(SystemTime::now().into());
        }
    }

    fn write(&mut self, note: Note) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        match note {
            Note::Given(ports, at) => writer.given(ports, Timestamp::from(at)),
            Note::Returned(first, last, protocol, at) => {
                writer.returned(first, last, protocol, Timestamp::from(at));
            }
        }
    }
}

/// The end of the queue that a shard and the control plane have.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// Nothing where there is no log.
    queue: Option<UnboundedSender<Note>>,
    lan_address: IpAddr,
}

impl Sender {
    /// A port block changed hands; `peer` says whose a client is.
    pub(super) fn block(&self, event: &BlockEvent, peer: impl FnOnce(IpAddr) -> String) {
        let first = event.block.saturating_mul(BLOCK);
        let last = first.saturating_add(BLOCK - 1);
        match event.given {
            true => self.given(|lan_address| Ports {
                peer: peer(event.client),
                client: event.client,
                lan_address,
                first_port: first,
                last_port: last,
                protocol: None,
            }),
            false => self.returned(first, last, None),
        }
    }

    /// A port is forwarded to a client from now on.
    pub(super) fn forward(&self, forward: &Forward, peer: Option<&str>) {
        self.given(|lan_address| Ports {
            peer: peer.unwrap_or_default().to_owned(),
            client: forward.to.ip(),
            lan_address,
            first_port: forward.lan_port,
            last_port: forward.lan_port,
            protocol: Some(forward.proto),
        });
    }

    /// A port is forwarded no longer.
    pub(super) fn unforward(&self, port: config::Port) {
        self.returned(port.number, port.number, Some(port.proto));
    }

    fn given(&self, ports: impl FnOnce(IpAddr) -> Ports) {
        if let Some(queue) = &self.queue {
            // It is gone only when the endpoint stops.
            let _ = queue.send(Note::Given(ports(self.lan_address), SystemTime::now()));
        }
    }

    fn returned(&self, first: u16, last: u16, protocol: Option<Transport>) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Note::Returned(first, last, protocol, SystemTime::now()));
        }
    }
}
