//! The data plane of vcgate without I/O: WireGuard tunnels, NAT, the SMB hook and the engine that
//! runs a packet through them.
//!
//! It takes datagrams, LAN packets, commands and the time, and returns datagrams, LAN packets and
//! events. It never reads a clock, a file or a socket.

pub mod engine;
pub mod ids;
pub mod journal;
pub mod keys;
pub mod nat;
pub mod netmap;
pub mod smb;
mod tcp_segment;
pub mod tcp_stream;
mod token_bucket;
pub mod tunnel;
