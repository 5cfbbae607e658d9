//! Which shard a packet of the LAN is for: that of its port, as blocks are shared out, or that of
//! the client to whom the port is forwarded. Nothing is looked up that only one shard has.

use super::Nat;
use super::block::BLOCK_SIZE;
use super::endpoint::{Family, Outside, Side};
use super::icmp::About;
use super::l4::{self, L4};
use std::net::IpAddr;
use vcgate_wire::packet::Packet;

/// Whom a packet of the LAN is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardLookup {
    /// Whoever has a port of this shard.
    Shard(u8),
    /// A client, whosever port it is.
    Client(IpAddr),
    /// Whoever has the first piece of this datagram.
    Fragment,
    /// Nobody: it is to be dropped.
    Unknown,
}

impl Nat {
    /// Whom a packet for the LAN address is for.
    pub fn shard_lookup(&self, packet: &Packet<'_>) -> ShardLookup {
        if !packet.headers.has_l4() {
            return ShardLookup::Fragment;
        }
        let family = Family::of(packet.headers.src);
        let outside = match l4::read(packet, Side::Lan) {
            Ok(L4::Flow(ports)) => Outside {
                family,
                protocol: ports.protocol,
                port: ports.dst,
            },
            Ok(L4::Error) => match About::read(packet, Side::Lan) {
                Ok(about) => Outside {
                    family,
                    protocol: about.protocol,
                    port: about.src.port,
                },
                Err(_) => return ShardLookup::Unknown,
            },
            Err(_) => return ShardLookup::Unknown,
        };
        match self.forwards.to(outside) {
            Some(inside) => ShardLookup::Client(inside.0.ip),
            None => ShardLookup::Shard(
                self.settings
                    .shard
                    .owner((outside.port / BLOCK_SIZE).into()),
            ),
        }
    }

    /// Whether it is the LAN address of its family.
    pub fn is_lan(&self, address: IpAddr) -> bool {
        self.settings.is_lan(address)
    }
}
