//! Received datagrams: parsing, admission of handshakes, and decryption with the source check.
//!
//! A message for a peer of another shard is not processed here but returned with that shard's
//! number.

use super::failures::{Failure, FailureCause};
use super::handshake_limiter::COOKIE_REPLY_LEN;
use super::outcome::{DropReason, Received, Transmit};
use super::peer::Peer;
use super::settings::Path;
use super::{Ecn, Identity, Tunnel, slot_mut};
use crate::ids::PeerId;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::PublicKey;
use std::net::IpAddr;
use std::time::Instant;

/// The counter from which a session accepts no message (WireGuard paper, section 6.1).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

impl Tunnel {
    /// Processes a datagram that arrived on `path`. A decrypted packet is written to `dst`, which
    /// must be at least as long as the datagram.
    pub fn receive<'a>(
        &mut self,
        path: &Path,
        datagram: &[u8],
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        let result = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::PacketData(data)) => {
                return self.receive_data(path, data.receiver_idx, datagram, dst, now);
            }
            Ok(Packet::PacketCookieReply(reply)) => match self.other_shard(reply.receiver_idx) {
                Some(shard) => return to_other_shard(shard),
                None => self.receive_handshake(path, reply.receiver_idx, datagram, now),
            },
            Ok(Packet::HandshakeResponse(response)) => {
                match self.other_shard(response.receiver_idx) {
                    Some(shard) => return to_other_shard(shard),
                    None => self.admit(path, datagram, now).and_then(|()| {
                        self.receive_handshake(path, response.receiver_idx, datagram, now)
                    }),
                }
            }
            Ok(Packet::HandshakeInit(_)) => {
                let admitted = self.admit(path, datagram, now);
                match admitted.and_then(|()| self.find_initiator(path, datagram, now)) {
                    Ok(peer) if !self.shard.owns(peer.0) => {
                        return Received::OtherShard {
                            shard: self.shard_of(peer),
                            initiator: Some(peer),
                        };
                    }
                    found => {
                        found.and_then(|peer| self.receive_initiation(peer, path, datagram, now))
                    }
                }
            }
            Err(_) => Err(DropReason::Malformed),
        };
        result.map_or_else(Received::Dropped, |()| Received::Nothing)
    }

    /// Processes a datagram that another shard received on `path` and returned as
    /// [`Received::OtherShard`]. It is not forwarded again.
    pub fn receive_from_shard<'a>(
        &mut self,
        path: &Path,
        datagram: &[u8],
        initiator: Option<PeerId>,
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        if let Some(peer) = initiator {
            // If the peer was replaced meanwhile, the keys do not match and the message is dropped.
            let result = self.receive_initiation(peer, path, datagram, now);
            return result.map_or_else(Received::Dropped, |()| Received::Nothing);
        }
        match self.receive(path, datagram, dst, now) {
            Received::OtherShard { .. } => Received::Dropped(DropReason::UnknownIndex),
            received => received,
        }
    }

    /// Returns the public key in a handshake initiation; the sender has not proven yet that it
    /// holds the private key.
    pub fn initiator(&self, datagram: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let Identity {
            private, public, ..
        } = &self.identity;
        let half = parse_handshake_anon(private, public, &init).ok()?;
        Some(half.peer_static_public.into())
    }

    fn receive_data<'a>(
        &mut self,
        path: &Path,
        receiver: u32,
        datagram: &[u8],
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        let Some(id) = self.indices.peer(receiver) else {
            return match self.other_shard(receiver) {
                Some(shard) => to_other_shard(shard),
                None => Received::Dropped(DropReason::UnknownIndex),
            };
        };
        if counter(datagram) >= REJECT_AFTER_MESSAGES {
            return Received::Dropped(DropReason::Replay);
        }
        if dst.len() < datagram.len() {
            return Received::Dropped(DropReason::BufferTooSmall);
        }
        if self.peer(id).is_some_and(|peer| peer.is_clock_stale(now)) {
            self.with_peer(id, now, Peer::prepare);
        }
        let Some(peer) = slot_mut(&mut self.peers, id) else {
            return Received::Dropped(DropReason::UnknownIndex);
        };
        let result = peer.open(datagram, dst);
        let (packet, source) = match result {
            TunnResult::WriteToTunnelV4(packet, source) => (packet, Some(IpAddr::V4(source))),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, Some(IpAddr::V6(source))),
            TunnResult::Done => (Default::default(), None), // a keepalive
            // The outer message has been parsed already, so this is the decrypted packet.
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                if peer.note_received(path, &mut self.failures, now) {
                    self.note_moved(id);
                }
                return Received::Dropped(DropReason::InnerMalformed);
            }
            TunnResult::Err(error) => return Received::Dropped(error.into()),
            TunnResult::WriteToNetwork(_) => return Received::Nothing,
        };
        if peer.note_received(path, &mut self.failures, now)
            && let Some(moved) = &mut self.moved
        {
            moved.push(id);
        }
        let allowed = source.is_none_or(|source| {
            peer.note_data_received(now);
            peer.has_host(source) || self.allowed_ips.lookup(source) == Some(id)
        });
        if allowed {
            peer.rx += datagram.len() as u64;
        }
        if peer.needs_slow_path(receiver, now) {
            self.with_peer(id, now, |peer, ctx| peer.on_session_used(receiver, ctx));
        }
        match source {
            None => Received::Nothing,
            Some(_) if allowed => Received::Packet { peer: id, packet },
            Some(source) => {
                self.with_peer(id, now, |peer, ctx| peer.source_refused(source, path, ctx));
                Received::Dropped(DropReason::SourceNotAllowed)
            }
        }
    }

    /// Returns the number of the shard that a receiver index names, if it is another one that
    /// exists.
    fn other_shard(&self, receiver: u32) -> Option<u8> {
        let shard = self.indices.shard(receiver);
        (shard != self.shard.number() && shard < self.shard.of()).then_some(shard)
    }

    fn find_initiator(
        &mut self,
        path: &Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<PeerId, DropReason> {
        let Some(key) = self.initiator(datagram) else {
            self.stranger_failed(FailureCause::NotAuthentic, path, now);
            return Err(DropReason::NotAuthentic);
        };
        let found = self.by_key.get(key.as_bytes()).copied();
        found.ok_or_else(|| {
            self.stranger_failed(FailureCause::UnknownKey(key), path, now);
            DropReason::UnknownPeer
        })
    }

    /// Notes the failure of a sender that is not known to be a peer.
    fn stranger_failed(&mut self, cause: FailureCause, path: &Path, now: Instant) {
        self.failures.note(Failure {
            cause,
            source: path.remote,
            peer: None,
            at: now,
        });
    }

    fn receive_initiation(
        &mut self,
        peer: PeerId,
        path: &Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.with_peer(peer, now, |peer, ctx| peer.handshake(path, datagram, ctx))
            .unwrap_or(Err(DropReason::UnknownPeer))
    }

    fn receive_handshake(
        &mut self,
        path: &Path,
        receiver: u32,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let id = self.indices.peer(receiver);
        id.and_then(|id| self.with_peer(id, now, |peer, ctx| peer.handshake(path, datagram, ctx)))
            .unwrap_or(Err(DropReason::UnknownIndex))
    }

    fn admit(&mut self, path: &Path, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let mut cookie = [0; COOKIE_REPLY_LEN];
        let source = path.remote.ip();
        let limiter = &mut self.handshake_limiter;
        let verdict = limiter.admit(source, datagram, &mut cookie, now);
        if verdict == Err(DropReason::CookieSent) {
            self.outbox.push_back(Transmit {
                path: *path,
                bytes: cookie.to_vec(),
                ecn: Ecn::NotCapable,
            });
        }
        if verdict == Err(DropReason::Mac) {
            self.stranger_failed(FailureCause::WrongServerKey, path, now);
        }
        verdict
    }
}

fn to_other_shard<'a>(shard: u8) -> Received<'a> {
    let initiator = None;
    Received::OtherShard { shard, initiator }
}

/// Returns the counter of a data message.
fn counter(message: &[u8]) -> u64 {
    let counter = message.get(8..).and_then(|rest| rest.first_chunk());
    counter.map_or(u64::MAX, |counter| u64::from_le_bytes(*counter))
}
