//! Who has which ports, on its way from the shard to the log (RFC 6888 REQ-12 to 14).
//!
//! Notes are rare (one a block, not one a flow) and none is dropped: their queue has no bound.

use super::EndpointError;
use crate::config::{self, Forward};
use crate::control::portlog::{Key, Ports, Timestamp, Writer};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use vcgate_core::nat::{BLOCK, BlockEvent};

/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(10);

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
    Returned(Key, SystemTime),
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

    /// A way to the log, for ports of these LAN addresses.
    pub(super) fn sender(&self, lan_address: Ipv4Addr, lan_address6: Option<Ipv6Addr>) -> Sender {
        Sender {
            queue: self.writer.as_ref().map(|_| self.queue.clone()),
            lan_address,
            lan_address6,
        }
    }

    /// Writes what comes, until the endpoint stops.
    pub(super) async fn follow(&mut self) -> Infallible {
        loop {
            let patience = match self.writer.as_ref().is_some_and(Writer::is_behind) {
                true => RETRY,
                false => Duration::MAX,
            };
            match timeout(patience, self.notes.recv()).await {
                Ok(Some(note)) => self.write(note),
                Ok(None) => std::future::pending().await, // never: a sender is ours
                Err(_) => {
                    if let Some(writer) = &mut self.writer {
                        writer.catch_up(SystemTime::now().into());
                    }
                }
            }
        }
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
            Note::Returned(key, at) => writer.returned(&key, Timestamp::from(at)),
        }
    }
}

/// The end of the queue that a shard and the control plane have.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// Nothing where there is no log.
    queue: Option<UnboundedSender<Note>>,
    lan_address: Ipv4Addr,
    lan_address6: Option<Ipv6Addr>,
}

impl Sender {
    /// A port block changed hands; `peer` says whose a client is.
    pub(super) fn block(&self, event: &BlockEvent, peer: impl FnOnce(IpAddr) -> String) {
        let first_port = event.block.saturating_mul(BLOCK);
        let key = Key {
            ipv6: event.client.is_ipv6(),
            first_port,
            last_port: first_port.saturating_add(BLOCK - 1),
            protocol: None,
        };
        match event.given {
            true => self.given(event.client, key, || peer(event.client)),
            false => self.returned(key),
        }
    }

    /// A port is forwarded to a client from now on.
    pub(super) fn forward(&self, forward: &Forward, peer: Option<&str>) {
        self.given(forward.to.ip(), key(forward), || {
            peer.unwrap_or_default().to_owned()
        });
    }

    /// A port is forwarded no longer.
    pub(super) fn unforward(&self, forward: &Forward) {
        self.returned(key(forward));
    }

    fn given(&self, client: IpAddr, key: Key, peer: impl FnOnce() -> String) {
        let Some(queue) = &self.queue else {
            return;
        };
        let lan_address = match (key.ipv6, self.lan_address6) {
            (true, Some(address)) => address.into(),
            _ => self.lan_address.into(),
        };
        let ports = Ports {
            peer: peer(),
            client,
            lan_address,
            first_port: key.first_port,
            last_port: key.last_port,
            protocol: key.protocol,
        };
        // It is gone only when the endpoint stops.
        let _ = queue.send(Note::Given(ports, SystemTime::now()));
    }

    fn returned(&self, key: Key) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Note::Returned(key, SystemTime::now()));
        }
    }
}

fn key(forward: &Forward) -> Key {
    Key {
        ipv6: forward.to.is_ipv6(),
        first_port: forward.lan_port,
        last_port: forward.lan_port,
        protocol: Some(forward.proto),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::portlog::ask;

    /// Of whom, seen by which address, and whether still.
    type Seen = (String, String, bool);

    #[test]
    fn rfc6888_req12_each_family_has_its_own_lan_address_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let settings = config::PortLog {
            file: dir.path().join("ports.jsonl"),
            size: 1 << 20,
            keep: 1,
        };
        let log = PortLog::open(Some(&settings)).unwrap();
        let lan: [IpAddr; 2] = ["192.168.77.2", "fd00:77::2"].map(|a| a.parse().unwrap());
        let sender = log.sender(Ipv4Addr::new(192, 168, 77, 2), "fd00:77::2".parse().ok());
        let inner = ["10.8.0.11", "fd00:8::11"];
        for (number, client) in inner.into_iter().enumerate() {
            let event = |given| BlockEvent {
                client: client.parse().unwrap(),
                block: 100 + number as u16,
                given,
            };
            let forward = Forward {
                proto: config::Transport::Tcp,
                lan_port: 8443,
                to: std::net::SocketAddr::new(client.parse().unwrap(), 443),
            };
            sender.block(&event(true), |client| format!("anna {client}"));
            sender.forward(&forward, Some("anna"));
            sender.block(&event(false), |_| unreachable!());
            if client == inner[0] {
                sender.unforward(&forward);
            }
        }
        log.stop();
        let text = std::fs::read_to_string(&settings.file).unwrap();
        let now = SystemTime::now().into();
        let who = |port| -> Vec<Seen> {
            let holders = ask(&settings.file, 1, port, now).unwrap().holders;
            let seen = |h: crate::control::portlog::Holder| {
                let Ports {
                    client,
                    lan_address,
                    ..
                } = h.ports;
                (
                    client.to_string(),
                    lan_address.to_string(),
                    h.until.is_none(),
                )
            };
            holders.into_iter().map(seen).collect()
        };
        for (number, client) in inner.into_iter().enumerate() {
            let seen = (client.to_owned(), lan[number].to_string(), false);
            assert_eq!(who((100 + number as u16) * BLOCK + 7), [seen], "{text}");
        }
        // A forward in each, of which one is gone.
        assert_eq!(text.matches("\"returned\"").count(), 3, "{text}");
        assert_eq!(text.matches("\"first_port\":8443").count(), 3, "{text}");
    }
}
