//! vcgate: a userspace WireGuard endpoint whose clients share one LAN address, and whose SMB users
//! do not disconnect each other.
//!
//! This crate configures, controls and connects the others; it contains no packet logic:
//!
//! ```text
//! vcgate-wire     views and pure functions over bytes
//! vcgate-core     tunnel → policy → NAT → SMB hook, without I/O        uses wire
//! vcgate-io       TUN, UDP, the threads of the shards                  uses core
//! vcgate-capture  pcapng files, `vcgate diagnose`                      uses core
//! vcgate          configuration, control, host set-up, commands        uses all
//! ```

#[cfg(test)] // the fake endpoint of tests/fake is shared with the tests of whole programs
extern crate self as vcgate;

pub mod admin;
pub mod config;
pub mod confine;
pub mod control;
pub mod doctor;
pub mod endpoint;
pub mod host;
pub mod keys;
pub mod logging;
pub mod operate;
pub mod password;
pub mod time;
