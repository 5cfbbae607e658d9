//! What one client may have, and what it has (RFC 6888 REQ-4 and REQ-5).
//!
//! A client is an inner address. Nobody's share is ever taken away for another one's sake.

use super::counters::Reason;
use super::endpoint::Protocol;
use super::ports::{Freed, Ports};
use hashbrown::HashMap;
use slab::Slab;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What one client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Port blocks; each gives [`BLOCK`](super::BLOCK) ports of every protocol.
    pub blocks: u16,
    /// Sessions at a time.
    pub sessions: u32,
    /// New sessions a second; as many again may come in one burst.
    pub new_sessions: u32,
    /// Datagrams under way in fragments (RFC 4787 REQ-14).
    pub fragments: u16,
    /// ICMP errors a second that the NAT itself sends to each side (RFC 1812 section 4.3.2.8).
    pub errors: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocks: 32,
            sessions: 16384,
            new_sessions: 1000,
            fragments: 32,
            errors: 100,
        }
    }
}

impl Limits {
    /// What others may open to a client: the other half of its sessions is its own.
    pub(super) fn of_strangers(&self) -> Self {
        Self {
            sessions: self.sessions / 2,
            ..self.clone()
        }
    }
}

/// A rate: so many a second, and a second's worth at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    full_again: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { full_again: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let Some(interval) = Duration::from_secs(1).checked_div(per_second) else {
            return false;
        };
        let after = self.full_again.max(now) + interval;
        let fits = after.duration_since(now) <= Duration::from_secs(1);
        if fits {
            self.full_again = after;
        }
        fits
    }
}

/// What one client has.
#[derive(Debug)]
pub(super) struct Client {
    pub address: IpAddr,
    pub blocks: Vec<u16>,
    pub sessions: u32,
    new_sessions: Bucket,
}

/// A port block changed hands: who had which ports when, one event a block and no destinations
/// (RFC 6888 REQ-12 to 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// The client.
    pub client: IpAddr,
    /// The block, by number (see [`BLOCK`](super::BLOCK)).
    pub block: u16,
    /// Whether it was given to the client; else the client returned it.
    pub given: bool,
}

/// All clients that have anything.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// What became of blocks since somebody asked.
    pub events: VecDeque<BlockEvent>,
    all: Slab<Client>,
    by_address: HashMap<IpAddr, u32>,
}

impl Clients {
    pub(super) fn find(&self, address: IpAddr) -> Option<&Client> {
        self.all.get(self.index(address)? as usize)
    }

    pub(super) fn index(&self, address: IpAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.all.iter().map(|(_, client)| client)
    }

    /// The client of this address, who may have nothing yet: see [`settle`](Self::settle).
    pub(super) fn enter(&mut self, address: IpAddr, now: Instant) -> u32 {
        let all = &mut self.all;
        *self.by_address.entry(address).or_insert_with(|| {
            all.insert(Client {
                address,
                blocks: Vec::new(),
                sessions: 0,
                new_sessions: Bucket::new(now),
            }) as u32
        })
    }

    /// Whether this client may open one more session now; if so, it counts.
    pub(super) fn admit(
        &mut self,
        client: u32,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Reason> {
        let client = &mut self.all[client as usize];
        if client.sessions >= limits.sessions {
            return Err(Reason::Sessions);
        }
        if !client.new_sessions.take(limits.new_sessions, now) {
            return Err(Reason::Rate);
        }
        client.sessions += 1;
        Ok(())
    }

    /// One session that was admitted is no more.
    pub(super) fn leave(&mut self, client: u32) {
        self.all[client as usize].sessions -= 1;
    }

    /// A session of a snapshot counts, without a limit.
    pub(super) fn restore(&mut self, client: u32) {
        self.all[client as usize].sessions += 1;
    }

    /// A port for this client; it may take a block for it.
    pub(super) fn port(
        &mut self,
        client: u32,
        ports: &mut Ports,
        protocol: Protocol,
        inner: u16,
        limits: &Limits,
    ) -> Result<u16, Reason> {
        let owner = client;
        let client = &mut self.all[client as usize];
        let had = client.blocks.len();
        let port = ports.take(owner, &mut client.blocks, limits.blocks, protocol, inner);
        if let Some(&block) = client.blocks.get(had) {
            self.events.push_back(BlockEvent {
                client: client.address,
                block,
                given: true,
            });
        }
        port.ok_or(Reason::NoPort)
    }

    /// A block is nobody's again.
    pub(super) fn freed(&mut self, Freed { client, block }: Freed) {
        let owner = &mut self.all[client as usize];
        owner.blocks.retain(|b| *b != block);
        self.events.push_back(BlockEvent {
            client: owner.address,
            block,
            given: false,
        });
        self.settle(client);
    }

    /// Forgets a client who has nothing.
    pub(super) fn settle(&mut self, client: u32) {
        let has_nothing = |c: &Client| c.blocks.is_empty() && c.sessions == 0;
        if self.all.get(client as usize).is_some_and(has_nothing) {
            let gone = self.all.remove(client as usize);
            self.by_address.remove(&gone.address);
        }
    }

    /// A block of a snapshot is this client's.
    pub(super) fn give(&mut self, client: u32, block: u16) {
        let client = &mut self.all[client as usize];
        client.blocks.push(block);
        self.events.push_back(BlockEvent {
            client: client.address,
            block,
            given: true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_second_s_worth_at_once_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let burst = (0..100).filter(|_| bucket.take(10, start)).count();
        assert_eq!(burst, 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| bucket.take(10, later)).count(), 5);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(10, much_later)).count(), 10);
        assert!(!Bucket::new(start).take(0, start));
    }

    #[test]
    fn rfc6888_req4_rfc6888_req5_sessions_and_their_rate_are_limited_for_each_client_alone() {
        let now = Instant::now();
        let limits = Limits {
            sessions: 2,
            ..Limits::default()
        };
        let mut clients = Clients::default();
        let (a, b) = (
            clients.enter([10, 8, 0, 1].into(), now),
            clients.enter([10, 8, 0, 2].into(), now),
        );
        assert_eq!(clients.enter([10, 8, 0, 1].into(), now), a);
        assert_eq!(clients.admit(a, &limits, now), Ok(()));
        assert_eq!(clients.admit(a, &limits, now), Ok(()));
        assert_eq!(clients.admit(a, &limits, now), Err(Reason::Sessions));
        assert_eq!(clients.admit(b, &limits, now), Ok(()));
        clients.leave(a);
        assert_eq!(clients.admit(a, &limits, now), Ok(()));
        let slow = Limits {
            new_sessions: 1,
            ..Limits::default()
        };
        assert_eq!(clients.admit(b, &slow, now), Err(Reason::Rate));
        clients.settle(a);
        assert_eq!(clients.iter().count(), 2);
        clients.leave(a);
        clients.leave(a);
        clients.settle(a);
        assert_eq!(clients.iter().count(), 1);
    }
}
