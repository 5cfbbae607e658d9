//! Port blocks and sessions per client, and the limits per peer (RFC 6888 REQ-4 and REQ-5).
//!
//! A client is an inner address: ports are assigned to, and logged with, addresses. The limits apply
//! to the peer, which answers for all its addresses: a site with a network behind its tunnel gets
//! no more than a single host. No client loses anything in favour of another one. This module does
//! not know which addresses belong to a peer; see [`Peers`].

use super::Nat;
use super::block::Block;
use super::endpoint::{ClientId, Family, LanId, Outside, Protocol, Side};
use super::group::{OwnedBlock, Trimmed};
use super::lan_addresses::LanAddresses;
use super::lan_ports::LanPorts;
use super::outcome::Reason;
use super::ports::{Class, PortRequest};
use super::settings::Limits;
use crate::ids::PeerId;
use crate::token_bucket::{Rate, TokenBucket};
use hashbrown::HashMap;
use slab::Slab;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// The rate of ICMP errors to all peers together, as a multiple of the rate to one peer.
const ALL_PEERS_ERROR_FACTOR: u32 = 16;

/// Maps inner addresses to peers.
pub trait Peers {
    /// Returns the peer to which a client's address belongs, if any.
    fn of(&self, client: IpAddr) -> Option<PeerId>;
}

/// The port blocks and sessions of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub address: IpAddr,
    pub peer: PeerId,
    /// The LAN address of its flows.
    pub lan: LanId,
    pub blocks: Vec<Block>,
    /// The number of ports in `blocks`.
    ports: u32,
    pub sessions: u32,
    lan_address: IpAddr,
    /// Whether no other peer uses the LAN address.
    has_own_lan: bool,
}

impl Client {
    /// Returns the number of ports in blocks.
    pub(super) fn ports(&self) -> u32 {
        self.ports
    }

    fn is_idle(&self) -> bool {
        self.blocks.is_empty() && self.sessions == 0
    }
}

/// Maximum number of resets per second in answer to segments that belong to no session. After a
/// restart without flows, servers send segments of all connections within a few seconds.
const MAX_RESETS_PER_SECOND: u32 = 1000;

/// The assignment or the return of a port block: one event per block, without destinations (RFC 6888
/// REQ-12 to 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// The client.
    pub client: IpAddr,
    /// The LAN address.
    pub lan: IpAddr,
    /// The first port of the block.
    pub first_port: u16,
    /// The last port of the block.
    pub last_port: u16,
    /// Whether the block was given to the client; otherwise the client returned it.
    pub given: bool,
}

/// All clients that have port blocks or sessions.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Block events that were not polled yet.
    pub events: VecDeque<BlockEvent>,
    pub peers: PeerUsageTable,
    clients: Slab<Client>,
    by_address: HashMap<IpAddr, ClientId>,
}

impl Clients {
    pub(super) fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(id.index())
    }

    pub(super) fn by_address(&self, address: IpAddr) -> Option<ClientId> {
        self.by_address.get(&address).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        let clients = self.clients.iter();
        clients.map(|(index, client)| (ClientId::from_index(index), client))
    }

    /// Returns the client with this address, which belongs to `peer`. A new one has nothing yet; see
    /// [`remove_if_idle`](Self::remove_if_idle).
    ///
    /// # Errors
    /// [`Reason::NoMapping`] if the address belongs to no peer.
    pub(super) fn get_or_insert(
        &mut self,
        address: IpAddr,
        peer: Option<PeerId>,
        addresses: &LanAddresses,
        now: Instant,
    ) -> Result<ClientId, Reason> {
        if let Some(known) = self.by_address(address) {
            return Ok(known);
        }
        let peer = peer.ok_or(Reason::NoMapping)?;
        self.peers.get_or_insert(peer, now).clients += 1;
        let lan = addresses.of_peer(peer, Family::of(address));
        let id = ClientId::from_index(self.clients.insert(Client {
            address,
            peer,
            lan,
            lan_address: addresses.address(lan),
            has_own_lan: addresses.owner(lan).is_some(),
            blocks: Vec::new(),
            ports: 0,
            sessions: 0,
        }));
        self.by_address.insert(address, id);
        Ok(id)
    }

    /// Counts one more session of this client, opened from that side.
    ///
    /// # Errors
    /// [`Reason::Sessions`] or [`Reason::Rate`] if the peer is at its limit.
    pub(super) fn admit(
        &mut self,
        id: ClientId,
        by: Side,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Reason> {
        let (client, usage) = self.with_usage(id);
        usage.admit(by, limits, now)?;
        client.sessions += 1;
        Ok(())
    }

    /// Counts one session less.
    pub(super) fn release_session(&mut self, id: ClientId) {
        let (client, usage) = self.with_usage(id);
        client.sessions -= 1;
        usage.sessions -= 1;
    }

    /// Counts a session of a snapshot, without a limit.
    pub(super) fn restore_session(&mut self, id: ClientId) {
        let (client, usage) = self.with_usage(id);
        client.sessions += 1;
        usage.sessions += 1;
    }

    /// Takes a port for this client, from an additional block if necessary. If there is none, idle
    /// parts of other blocks are returned, and then, if `may_reuse`, ports from quarantine.
    ///
    /// # Errors
    /// [`Reason::NoPort`] if no port is free within the limits.
    pub(super) fn take_port(
        &mut self,
        id: ClientId,
        ports: &mut LanPorts,
        protocol: Protocol,
        inner: u16,
        limits: &Limits,
        may_reuse: bool,
    ) -> Result<Outside, Reason> {
        let lan = self.clients[id.index()].lan;
        let outside = |port| Outside {
            lan,
            protocol,
            port,
        };
        if let Some(port) = self.try_take_port(id, ports, protocol, inner, limits) {
            return Ok(outside(port));
        }
        let is_at_limit = self.clients[id.index()].ports >= u32::from(limits.ports);
        if is_at_limit {
            return Err(Reason::NoPort);
        }
        if self.trim(ports, lan)
            && let Some(port) = self.try_take_port(id, ports, protocol, inner, limits)
        {
            return Ok(outside(port));
        }
        if may_reuse && self.end_quarantines(ports, lan) {
            let port = self.try_take_port(id, ports, protocol, inner, limits);
            return port.map(outside).ok_or(Reason::NoPort);
        }
        Err(Reason::NoPort)
    }

    fn try_take_port(
        &mut self,
        id: ClientId,
        ports: &mut LanPorts,
        protocol: Protocol,
        inner: u16,
        limits: &Limits,
    ) -> Option<u16> {
        let (client, usage) = self.with_usage(id);
        let had = client.blocks.len();
        let request = &mut PortRequest {
            client: id,
            protocol,
            inner,
            max_ports: u32::from(limits.ports).saturating_sub(client.ports) as u16,
            blocks: &mut client.blocks,
            of_peer: usage.ports[Family::of(client.address) as usize],
            preserve: client.has_own_lan,
        };
        let port = ports.take(client.lan, request);
        if let Some(&block) = client.blocks.get(had) {
            self.count_block(id, block, true);
        }
        port
    }

    /// Gives a block of a snapshot to this client.
    pub(super) fn restore_block(&mut self, id: ClientId, block: Block) {
        self.clients[id.index()].blocks.push(block);
        self.count_block(id, block, true);
    }

    /// Records that a client returned a block.
    pub(super) fn on_block_released(&mut self, released: OwnedBlock) {
        let OwnedBlock { client: id, block } = released;
        self.clients[id.index()].blocks.retain(|b| *b != block);
        self.count_block(id, block, false);
        self.remove_if_idle(id);
    }

    /// Takes all blocks from a client without ports in use, although some may be in quarantine.
    pub(super) fn abandon_blocks(&mut self, id: ClientId, ports: &mut LanPorts) {
        let Some(Client { lan, blocks, .. }) = self.client(id) else {
            return;
        };
        let lan = *lan;
        for block in blocks.clone() {
            ports.abandon(lan, block);
            self.on_block_released(OwnedBlock { client: id, block });
        }
    }

    /// Ends the oldest quarantines of a LAN address early; returns whether there were any.
    fn end_quarantines(&mut self, ports: &mut LanPorts, lan: LanId) -> bool {
        let ended = ports.end_oldest_quarantines(lan);
        let found = !ended.is_empty();
        for released in ended.into_iter().flatten() {
            // The client that asks for a port has a session, so it remains.
            self.on_block_released(released);
        }
        found
    }

    /// Returns idle parts of blocks, and whether there were any.
    fn trim(&mut self, ports: &mut LanPorts, lan: LanId) -> bool {
        let trimmed = ports.trim(lan);
        let found = !trimmed.is_empty();
        for Trimmed {
            client: id,
            whole,
            kept,
        } in trimmed
        {
            let blocks = &mut self.clients[id.index()].blocks;
            blocks.retain(|block| *block != whole);
            blocks.extend(&kept);
            self.count_block(id, whole, false);
            for block in kept {
                self.count_block(id, block, true);
            }
        }
        found
    }

    /// Removes a client that has neither blocks nor sessions.
    pub(super) fn remove_if_idle(&mut self, id: ClientId) {
        if self.client(id).is_some_and(Client::is_idle) {
            let client = self.clients.remove(id.index());
            self.by_address.remove(&client.address);
            self.peers.known(client.peer).clients -= 1;
        }
    }

    /// Counts and logs a block that was given to a client or returned.
    fn count_block(&mut self, id: ClientId, block: Block, given: bool) {
        let (client, usage) = self.with_usage(id);
        let family = Family::of(client.address);
        let size = u32::from(block.size());
        let of_peer = &mut usage.ports[family as usize][Class::of(block.first()) as usize];
        if given {
            client.ports += size;
            *of_peer += size;
        } else {
            client.ports -= size;
            *of_peer -= size;
        }
        let event = BlockEvent {
            client: client.address,
            lan: client.lan_address,
            first_port: block.first(),
            last_port: block.last(),
            given,
        };
        self.events.push_back(event);
    }

    fn with_usage(&mut self, id: ClientId) -> (&mut Client, &mut PeerUsage) {
        let client = &mut self.clients[id.index()];
        // `get_or_insert` created the entry together with the client.
        let usage = self.peers.known(client.peer);
        (client, usage)
    }
}

/// The resources that one peer uses.
#[derive(Debug)]
pub(super) struct PeerUsage {
    /// The number of inner addresses with blocks or sessions.
    clients: u32,
    /// The ports in blocks, by family and class.
    ports: [[u32; Class::COUNT]; Family::COUNT],
    sessions: u32,
    /// By the side that opens them.
    new_sessions: [TokenBucket; 2],
    /// ICMP errors that the NAT itself sends: to the peer, and to the LAN about packets for the peer.
    errors: [TokenBucket; 2],
}

impl PeerUsage {
    fn new(now: Instant) -> Self {
        Self {
            clients: 0,
            ports: [[0; Class::COUNT]; Family::COUNT],
            sessions: 0,
            new_sessions: [TokenBucket::full(now); 2],
            errors: [TokenBucket::full(now); 2],
        }
    }

    /// Counts one more session. Hosts on the LAN can open at most half of the sessions, at a separate
    /// rate: the rest is left to the peer.
    fn admit(&mut self, by: Side, limits: &Limits, now: Instant) -> Result<(), Reason> {
        let max = match by {
            Side::Inside => limits.sessions,
            Side::Lan => limits.sessions / 2,
        };
        if self.sessions >= max {
            return Err(Reason::Sessions);
        }
        let rate = Rate::per_second(limits.new_sessions);
        if !self.new_sessions[by as usize].take(rate, now) {
            return Err(Reason::Rate);
        }
        self.sessions += 1;
        Ok(())
    }
}

/// The usage of all peers, indexed by peer id.
#[derive(Debug, Default)]
pub(super) struct PeerUsageTable(Vec<PeerUsage>);

impl PeerUsageTable {
    fn get_or_insert(&mut self, peer: PeerId, now: Instant) -> &mut PeerUsage {
        let index = peer.0 as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || PeerUsage::new(now));
        }
        &mut self.0[index]
    }

    /// Returns the usage of a peer that has an entry.
    fn known(&mut self, peer: PeerId) -> &mut PeerUsage {
        &mut self.0[peer.0 as usize]
    }

    /// Returns whether a peer has any client with blocks or sessions.
    pub(super) fn has_clients(&self, peer: PeerId) -> bool {
        let usage = self.0.get(peer.0 as usize);
        usage.is_some_and(|usage| usage.clients > 0)
    }
}

impl Nat {
    /// Takes a token for an ICMP error to a peer, or to the LAN about a packet for the peer; returns
    /// false if there is none.
    pub(super) fn may_send_error(&mut self, peer: PeerId, to: Side, now: Instant) -> bool {
        let limit = self.settings.limits.errors;
        let own = &mut self.clients.peers.get_or_insert(peer, now).errors[to as usize];
        let all = Rate::per_second(limit.saturating_mul(ALL_PEERS_ERROR_FACTOR));
        own.take(Rate::per_second(limit), now) && self.errors[to as usize].take(all, now)
    }

    /// Takes a token for an ICMP error to a host of the LAN about a packet for no peer; returns false if
    /// there is none. Such packets, as those of a port scan, use up no errors about others.
    pub(super) fn may_send_lan_error(&mut self, now: Instant) -> bool {
        let limit = Rate::per_second(self.settings.limits.errors);
        self.unsolicited_errors.take(limit, now)
    }

    /// Takes a token for a reset to a host of the LAN; returns false if there is none.
    pub(super) fn may_send_reset(&mut self, now: Instant) -> bool {
        self.resets
            .take(Rate::per_second(MAX_RESETS_PER_SECOND), now)
    }
}
