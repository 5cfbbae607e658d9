//! vcgate: a WireGuard endpoint in user space whose clients share one LAN address, and whose SMB
//! users do not cut one another off.
//!
//! The way of a packet is the way through the rooms:
//!
//! ```text
//! client → io (UDP) → tunnel → policy → nat → smb → io (TUN) → kernel → LAN
//! LAN → kernel → io (TUN) → nat → smb → tunnel → io (UDP) → client
//! ```
//!
//! [`engine`] is that pipeline without any I/O; everything above it ([`config`], [`control`])
//! says what it shall do, everything below it ([`io`], [`host`]) carries its packets. [`diagnose`]
//! stands apart: it reads captures.

pub mod config;
pub mod control;
pub mod diagnose;
pub mod endpoint;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host;
pub mod ids;
pub mod io;
pub mod keys;
pub mod nat;
pub mod smb;
pub mod tunnel;
pub mod wire;
