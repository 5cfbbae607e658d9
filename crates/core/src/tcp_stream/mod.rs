//! The bytes of a TCP direction in order: positions in the stream, a buffer for segments that
//! arrive before the bytes they follow, and a scanner that finds the messages in it.
//!
//! It knows sequence numbers and NetBIOS framing; it never looks at addresses or at what a message
//! means.

pub mod position;
pub mod reorder;
pub mod scan;
