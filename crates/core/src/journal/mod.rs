//! The flow journal: the durable state of flows as records, so that connections survive the end of
//! the process, however it ends.
//!
//! The data plane reports each durable change as a [`Record`]. A snapshot is the same records of
//! everything. [`encode`](mod@encode) writes both into frames, [`replay`] reads them back into a [`State`], and
//! [`Engine::restore`](crate::engine::Engine::restore) continues the flows of a state.
//!
//! ```text
//! record   a durable change: flow opened or closed, TCP stage, hook state, peer, owner of an address
//! encode   the binary format: a head, then frames with length and checksum
//! state    the result of records, whatever shard they are from
//! replay   reads a journal; cuts off a torn tail
//! ```
//!
//! It is data only. It never reads a clock or a file, and contains no keys of WireGuard sessions: a
//! new handshake avoids nonce reuse.

pub mod encode;
mod record;
mod replay;
mod state;

pub use encode::{FORMAT, MAX_FRAME_LEN, Timestamp};
pub use record::Record;
pub(crate) use record::{Change, FlowKey};
pub use replay::{ReplayError, Replayed, replay};
pub use state::State;
