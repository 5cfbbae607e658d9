//! Names for things that cross rooms. It holds identities only, never what they stand for.

/// A peer of the tunnel: a slot of the peer table, never reused while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// A translated flow: one inner endpoint, one remote endpoint, one protocol.
///
/// `slot` is small and dense, so a room may keep a table by it; `generation` tells a new flow in
/// a used slot from the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// The place in the table.
    pub slot: u32,
    /// How often the place was given away before.
    pub generation: u32,
}
