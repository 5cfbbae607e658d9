//! An endpoint in memory that changes its peers as a WireGuard device does.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;
use vcgate::config::{Forward, Problems};
use vcgate::control::endpoint::Captured;
use vcgate::control::endpoint::*;
use vcgate::control::reload::{Change, Reload, Reloaded};
use vcgate::control::report::*;
use vcgate::control::timeline::Timeline;
use vcgate::control::uapi::device::*;
use vcgate::keys::PublicKey;
use vcgate::time::Timestamp;
use vcgate_capture::{Counts, Packet};
use vcgate_core::engine::{Direction, Filter, Side};

/// A port that the fake refuses to listen on.
pub(crate) const REFUSED_PORT: u16 = 666;

/// The fake endpoint, with its state accessible to tests.
#[derive(Default)]
pub(crate) struct Fake {
    /// The configuration that it claims to read.
    pub file: RefCell<Option<PathBuf>>,
    pub device: RefCell<DeviceState>,
    pub added: RefCell<Vec<PeerChange>>,
    pub forwards: RefCell<Vec<Forward>>,
    /// The filter of the running capture.
    pub capturing: RefCell<Option<Filter>>,
    /// Packets that were captured and not fetched.
    pub captured: Cell<Captured>,
}

/// Makes a packet for a capture.
pub(crate) fn packet(comment: &str) -> Packet {
    Packet {
        side: Side::Lan,
        direction: Direction::ToLan,
        unix_nanos: 1_700_000_000_123_456_789,
        comment: comment.into(),
        bytes: vec![0x45; 60],
    }
}

/// Runs `test` while `server` is running.
pub(crate) async fn during<T>(
    server: impl Future<Output = Infallible>,
    test: impl Future<Output = T>,
) -> T {
    tokio::select! {
        never = server => match never {},
        result = test => result,
    }
}

impl Endpoint for Fake {
    async fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            interface: "fake".into(),
            file: self.file.borrow().clone(),
            public_key: PublicKey::from([1; 32]),
            listen_port: self.device.borrow().listen_port,
            address: vec!["10.8.0.1/24".parse().unwrap()],
            lan: Lan {
                interface: "eth0".into(),
                address: "192.168.77.2".parse().unwrap(),
                address6: None,
                mode: LanMode::Fixed,
                mapped: vec![],
                addresses: vec![],
                conflicts: vec![],
            },
            uptime_seconds: 1,
            shards: 1,
            offloads: vec![],
            peers: self.added.borrow().iter().map(peer_status).collect(),
            drops: [("no_mapping".into(), 7)].into(),
            confinement: None,
            inactive: Vec::new(),
            failed_handshakes: Vec::new(),
            dns: None,
            smb: SmbCounters::default(),
        }
    }

    async fn flows(&self) -> Vec<Flow> {
        vec![]
    }

    async fn smb(&self) -> SmbReport {
        SmbReport {
            counters: SmbCounters::default(),
            flows: vec![],
            recent: vec![],
        }
    }

    async fn timeline(&self, from: u64) -> Timeline {
        Timeline {
            next: from,
            entries: vec![],
        }
    }

    async fn capture_start(&self, filter: Filter) -> Result<(), Refusal> {
        if self.capturing.borrow().is_some() {
            return Err(Refusal {
                message: "a capture is running already".into(),
                remedy: None,
            });
        }
        self.capturing.replace(Some(filter));
        Ok(())
    }

    async fn capture_take(&self) -> Captured {
        self.captured.take()
    }

    async fn capture_stop(&self) -> Captured {
        self.capturing.replace(None);
        Captured {
            packets: vec![packet("the last")],
            dropped: Counts { tunnel: 1, lan: 2 },
        }
    }

    async fn uapi_get(&self) -> DeviceState {
        self.device.borrow().clone()
    }

    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError> {
        if change.listen_port == Some(REFUSED_PORT) {
            let remedy = "write listen_port into the configuration and restart";
            return Err(UapiError::new(Errno::NotSupported, remedy));
        }
        let mut device = self.device.borrow_mut();
        if let Some(key) = change.private_key {
            device.private_key = key_of(key);
        }
        device.listen_port = change.listen_port.unwrap_or(device.listen_port);
        device.fwmark = change.fwmark.unwrap_or(device.fwmark);
        if change.replace_peers {
            device.peers.clear();
        }
        for section in change.peers {
            apply(&mut device.peers, section);
        }
        Ok(())
    }

    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal> {
        if self
            .added
            .borrow()
            .iter()
            .any(|known| known.name == peer.name)
        {
            return Err(Refusal {
                message: format!("there is a peer {} already", peer.name),
                remedy: Some("choose another name".into()),
            });
        }
        self.added.borrow_mut().push(peer);
        Ok(())
    }

    async fn peer_set(&self, before: PublicKey, peer: PeerChange) -> Result<(), Refusal> {
        let mut added = self.added.borrow_mut();
        added.retain(|known| known.public_key != before);
        added.push(peer);
        Ok(())
    }

    async fn log_level(&self, level: Option<String>) -> Result<String, Refusal> {
        Ok(level.unwrap_or_else(|| "info,boringtun=off".into()))
    }

    async fn reload(&self) -> Reload {
        Reload {
            file: "/etc/vcgate/vcgate.toml".into(),
            changes: vec![Reloaded {
                change: Change::PeerAdded {
                    peer: "anna".into(),
                },
                refused: None,
            }],
            at_next_start: vec!["interface.mtu".into()],
            problems: Problems::default(),
        }
    }

    async fn peer_link(&self, peer: &str, _: Duration) -> Result<LinkReport, Refusal> {
        Ok(LinkReport {
            peer: peer.to_owned(),
            url: "https://vpn.example.com/c/token".into(),
            expires: Timestamp(1_700_000_000),
        })
    }

    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal> {
        self.forwards.borrow_mut().push(forward);
        Ok(())
    }

    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal> {
        self.forwards.borrow_mut().retain(|f| *f != forward);
        Ok(())
    }

    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal> {
        let mut added = self.added.borrow_mut();
        let named = |known: &PeerChange| known.name == peer || known.public_key.to_string() == peer;
        let place = added.iter().position(named).ok_or_else(|| Refusal {
            message: format!("there is no peer {peer:?}"),
            remedy: None,
        })?;
        added.remove(place);
        Ok(())
    }
}

fn apply(peers: &mut Vec<PeerState>, section: PeerSection) {
    let key = section.public_key;
    if section.remove {
        return peers.retain(|peer| peer.public_key != key);
    }
    let index = match peers.iter().position(|peer| peer.public_key == key) {
        Some(index) => index,
        None if section.update_only => return,
        None => {
            peers.push(new_peer(key));
            peers.len() - 1
        }
    };
    if let Some(key) = section.preshared_key {
        peers[index].preshared_key = key_of(key);
    }
    peers[index].endpoint = section.endpoint.or(peers[index].endpoint);
    if let Some(seconds) = section.persistent_keepalive {
        peers[index].persistent_keepalive = seconds;
    }
    if section.replace_allowed_ips {
        peers[index].allowed_ips.clear();
    }
    for change in section.allowed_ips {
        match change {
            AllowedIp::Add(net) => {
                for peer in peers.iter_mut() {
                    peer.allowed_ips.retain(|other| *other != net);
                }
                peers[index].allowed_ips.push(net);
            }
            AllowedIp::Remove(net) => peers[index].allowed_ips.retain(|other| *other != net),
        }
    }
}

fn key_of<K>(change: KeyChange<K>) -> Option<K> {
    match change {
        KeyChange::Set(key) => Some(key),
        KeyChange::Clear => None,
    }
}

fn new_peer(public_key: PublicKey) -> PeerState {
    PeerState {
        public_key,
        preshared_key: None,
        endpoint: None,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive: 0,
        allowed_ips: vec![],
    }
}

fn peer_status(peer: &PeerChange) -> PeerStatus {
    PeerStatus {
        name: peer.name.clone(),
        public_key: peer.public_key,
        endpoint: None,
        allowed_ips: peer.allowed_ips.clone(),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive_seconds: peer.persistent_keepalive.map(u16::from),
        queued_packets: 0,
        flows: 0,
        denied_packets: 0,
        limited_packets: 0,
        connected: false,
        last_failure: None,
        last_seen: None,
    }
}
