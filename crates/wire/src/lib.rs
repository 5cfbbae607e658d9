//! Views of bytes on the wire, in the manner of smoltcp's `wire`, for what smoltcp lacks.
//!
//! Everything here is a pure function of the bytes it is given: no state, no clock, no I/O.

pub mod checksum;
pub mod coalesce;
pub mod ecn;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod nbss;
pub mod packet;
pub mod session_setup;
pub mod smb1;
pub mod split;
pub mod tcp;
pub mod virtio_net;
