//! Views and pure functions over packet bytes, in the style of smoltcp's `wire`, for formats and
//! rewrites that smoltcp lacks: super-packets, incremental checksums, SMB1, virtio_net.
//!
//! This crate keeps no state, reads no clock and does no I/O.
//!
//! ```
//! use vcgate_wire::ip::Headers;
//!
//! let packet = [
//!     0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 11, 192, 0, 2, 1, // IPv4
//!     0x30, 0x39, 0, 53, 0, 8, 0, 0, // UDP
//! ];
//! let headers = Headers::parse(&packet)?;
//! assert_eq!(headers.ports(&packet[headers.l4..]), Some((12345, 53)));
//! # Ok::<(), vcgate_wire::ip::Malformed>(())
//! ```

pub mod address;
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
