//! The control interfaces of a running endpoint: the UAPI that `wg` uses, and vcgate's control
//! socket.
//!
//! Both servers call an [`endpoint::Endpoint`] and never see shards. They run on the current
//! thread's tokio runtime (with I/O and time enabled) and hold no locks of the data plane: a client
//! that stalls or sends invalid requests affects only its own connection.

pub mod audit;
pub mod caller;
pub mod capture;
pub mod client;
pub mod endpoint;
pub mod failure;
pub mod listener;
pub(crate) mod local;
pub mod metrics;
pub mod portlog;
pub mod reload;
pub mod report;
pub mod socket;
pub mod timeline;
pub mod uapi;

mod line_file;
mod message;

pub use crate::time;
