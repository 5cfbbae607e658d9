//! The I/O of vcgate: TUN, UDP and the threads of the shards. It carries packets and decides nothing.
//! All `unsafe` code of the project is in this crate.

pub mod arp;
mod link;
pub mod ndp;
pub mod shard;
mod sys;
pub mod tun;
pub mod udp;

pub use sys::interface_index;
#[cfg(any(test, feature = "test-support"))]
pub use sys::{enter_new_network, until};
