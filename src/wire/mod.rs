//! Views of bytes on the wire, in the manner of smoltcp's `wire`, for what smoltcp lacks.
//!
//! Everything here is a pure function of the bytes it is given: no state, no clock, no I/O.

pub mod checksum;
pub mod ip;
pub mod packet;
