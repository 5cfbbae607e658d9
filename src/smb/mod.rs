//! The SMB hook: each translated flow to a file server gets a VcNumber of its own.
//!
//! It gets a flow id and bytes; it knows nothing of how NAT keeps its flows.
