//! The running endpoint as others see it: the UAPI that `wg` speaks, and vcgate's control socket.
//!
//! Both servers ask an [`endpoint::Endpoint`] and know nothing of shards. They run on the current
//! thread's tokio runtime (with I/O and time enabled) and hold no data-plane locks: a client that
//! stalls or lies costs its own connection, nobody else's.

pub mod capture;
pub mod client;
pub mod endpoint;
pub mod failure;
pub mod listener;
pub mod metrics;
pub mod portlog;
pub mod reload;
pub mod report;
pub mod socket;
pub mod time;
pub mod timeline;
pub mod uapi;

mod message;
