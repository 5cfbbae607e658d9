//! TUN, UDP and the threads of the shards: carries packets, decides nothing. The only `unsafe`.

pub mod arp;
mod link;
pub mod ndp;
pub mod shard;
mod sys;
pub mod tun;
pub mod udp;

pub(crate) use sys::interface_index;
#[cfg(test)]
pub(crate) use sys::{enter_new_network, until};
