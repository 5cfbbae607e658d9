//! Which clients have what of their peers' shares.
//!
//! A client is an inner address: ports are given, and logged, to addresses. What they have together
//! is limited for their peer ([`holders`](super::holders)). Nobody's share is ever taken away for
//! another one's sake.

use super::counters::Reason;
use super::endpoint::{Family, Protocol, Side};
use super::peer_usage::{PeerUsage, PeerUsageTable, Peers};
use super::ports::{PortRequest, Ports, ReleasedBlock};
use super::settings::Limits;
use crate::ids::PeerId;
use hashbrown::HashMap;
use slab::Slab;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// What one client has.
#[derive(Debug)]
pub(super) struct Client {
    pub address: IpAddr,
    pub peer: PeerId,
    pub blocks: Vec<u16>,
    pub sessions: u32,
}

/// A port block changed hands: who had which ports when, one event a block and no destinations
/// (RFC 6888 REQ-12 to 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// The client.
    pub client: IpAddr,
    /// The block of the client's family, by number (see [`BLOCK_SIZE`](super::BLOCK)).
    pub block: u16,
    /// Whether it was given to the client; else the client returned it.
    pub given: bool,
}

/// All clients that have anything.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// What became of blocks since somebody asked.
    pub events: VecDeque<BlockEvent>,
    /// Who answers for them.
    pub holders: PeerUsageTable,
    all: Slab<Client>,
    by_address: HashMap<IpAddr, u32>,
}

impl Clients {
    pub(super) fn find(&self, client: u32) -> Option<&Client> {
        self.all.get(client as usize)
    }

    pub(super) fn index(&self, address: IpAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Client)> {
        self.all.iter().map(|(at, client)| (at as u32, client))
    }

    /// The client of this address, who may have nothing yet: see [`remove_if_idle`](Self::settle). There is
    /// none if it is no peer's.
    pub(super) fn get_or_insert(
        &mut self,
        address: IpAddr,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<u32, Reason> {
        if let Some(known) = self.index(address) {
            return Ok(known);
        }
        let peer = peers.of(address).ok_or(Reason::NoMapping)?;
        self.holders.of(peer, now).clients += 1;
        let client = self.all.insert(Client {
            address,
            peer,
            blocks: Vec::new(),
            sessions: 0,
        }) as u32;
        self.by_address.insert(address, client);
        Ok(client)
    }

    /// Whether one more session with this client may be opened now from that side; if so, it counts.
    pub(super) fn admit(
        &mut self,
        client: u32,
        by: Side,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Reason> {
        let (client, holder) = self.with_holder(client);
        holder.admit(by, limits, now)?;
        client.sessions += 1;
        Ok(())
    }

    /// One session that was admitted is no more.
    pub(super) fn leave(&mut self, client: u32) {
        let (client, holder) = self.with_holder(client);
        client.sessions -= 1;
        holder.sessions -= 1;
    }

    /// A session of a snapshot counts, without a limit.
    pub(super) fn restore(&mut self, client: u32) {
        let (client, holder) = self.with_holder(client);
        client.sessions += 1;
        holder.sessions += 1;
    }

    /// A port for this client; it may take a block for it.
    pub(super) fn port(
        &mut self,
        index: u32,
        ports: &mut Ports,
        protocol: Protocol,
        inner: u16,
        limits: &Limits,
    ) -> Result<u16, Reason> {
        let (client, holder) = self.with_holder(index);
        let had = client.blocks.len();
        let family = Family::of(client.address);
        let blocks = &mut holder.blocks[family as usize];
        let left = ports.share().saturating_sub(*blocks);
        let port = ports.take(&mut PortRequest {
            client: index,
            family,
            protocol,
            inner,
            held: &mut client.blocks,
            most: left.saturating_add(had as u16).min(limits.blocks),
        });
        if let Some(&block) = client.blocks.get(had) {
            *blocks += 1;
            let client = client.address;
            self.events.push_back(BlockEvent {
                client,
                block,
                given: true,
            });
        }
        port.ok_or(Reason::NoPort)
    }

    /// A block is nobody's again.
    pub(super) fn freed(&mut self, ReleasedBlock { client, block }: ReleasedBlock) {
        let (owner, holder) = self.with_holder(client);
        owner.blocks.retain(|b| *b != block);
        let address = owner.address;
        holder.blocks[Family::of(address) as usize] -= 1;
        self.events.push_back(BlockEvent {
            client: address,
            block,
            given: false,
        });
        self.remove_if_idle(client);
    }

    /// Takes all its blocks from a client none of whose ports is used, though some may rest still.
    pub(super) fn give_up(&mut self, client: u32, ports: &mut Ports) {
        let Some(Client {
            address, blocks, ..
        }) = self.find(client)
        else {
            return;
        };
        let family = Family::of(*address);
        for block in blocks.clone() {
            ports.abandon(family, block);
            self.freed(ReleasedBlock { client, block });
        }
    }

    /// Forgets a client who has nothing.
    pub(super) fn remove_if_idle(&mut self, client: u32) {
        let has_nothing = |c: &Client| c.blocks.is_empty() && c.sessions == 0;
        if self.find(client).is_some_and(has_nothing) {
            let gone = self.all.remove(client as usize);
            self.by_address.remove(&gone.address);
            self.holders.known(gone.peer).clients -= 1;
        }
    }

    /// A block of a snapshot is this client's.
    pub(super) fn give(&mut self, client: u32, block: u16) {
        let (client, holder) = self.with_holder(client);
        client.blocks.push(block);
        let client = client.address;
        holder.blocks[Family::of(client) as usize] += 1;
        self.events.push_back(BlockEvent {
            client,
            block,
            given: true,
        });
    }

    fn with_holder(&mut self, client: u32) -> (&mut Client, &mut PeerUsage) {
        let client = &mut self.all[client as usize];
        // It was asked for when the client entered.
        let holder = self.holders.known(client.peer);
        (client, holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The third octet of an address is its peer.
    struct Sites;

    impl Peers for Sites {
        fn of(&self, client: IpAddr) -> Option<PeerId> {
            match client {
                IpAddr::V4(address) => Some(PeerId(address.octets()[2].into())),
                IpAddr::V6(_) => None,
            }
        }
    }

    #[test]
    fn rfc6888_req4_rfc6888_req5_sessions_and_their_rate_are_limited_for_each_peer_alone() {
        let now = Instant::now();
        let limits = Limits {
            sessions: 2,
            ..Limits::default()
        };
        let mut clients = Clients::default();
        let enter = |clients: &mut Clients, address: [u8; 4]| {
            clients.get_or_insert(address.into(), &Sites, now).unwrap()
        };
        let (a, b) = (
            enter(&mut clients, [10, 8, 0, 1]),
            enter(&mut clients, [10, 8, 1, 1]),
        );
        assert_eq!(enter(&mut clients, [10, 8, 0, 1]), a);
        let same_peer = enter(&mut clients, [10, 8, 0, 2]);
        assert_eq!(clients.admit(a, Side::Inside, &limits, now), Ok(()));
        assert_eq!(clients.admit(same_peer, Side::Inside, &limits, now), Ok(()));
        assert_eq!(
            clients.admit(a, Side::Inside, &limits, now),
            Err(Reason::Sessions)
        );
        assert_eq!(
            clients.admit(same_peer, Side::Inside, &limits, now),
            Err(Reason::Sessions)
        );
        assert_eq!(clients.admit(b, Side::Inside, &limits, now), Ok(()));
        clients.leave(same_peer);
        clients.remove_if_idle(same_peer);
        assert_eq!(clients.admit(a, Side::Inside, &limits, now), Ok(()));
        let slow = Limits {
            new_sessions: 1,
            ..Limits::default()
        };
        assert_eq!(
            clients.admit(b, Side::Inside, &slow, now),
            Err(Reason::Rate)
        );
        clients.remove_if_idle(a);
        assert_eq!(clients.iter().count(), 2);
        clients.leave(a);
        clients.leave(a);
        clients.remove_if_idle(a);
        assert_eq!(clients.iter().count(), 1);
        assert!(!clients.holders.has_clients(PeerId(0)));
        assert!(clients.holders.has_clients(PeerId(1)));
    }

    #[test]
    fn an_address_of_nobody_enters_nowhere() {
        let mut clients = Clients::default();
        let entered = clients.get_or_insert("fd00::1".parse().unwrap(), &Sites, Instant::now());
        assert_eq!(entered, Err(Reason::NoMapping));
        assert_eq!(clients.iter().count(), 0);
    }
}
