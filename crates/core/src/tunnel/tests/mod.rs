//! Tests of the tunnel between two tunnels, and with boringtun alone as a client.

mod attack;
mod change;
#[cfg(feature = "virtual-time")]
mod crossed;
#[cfg(feature = "virtual-time")]
mod failures;
#[cfg(feature = "virtual-time")]
mod flood;
#[cfg(feature = "virtual-time")]
mod history;
mod net;
#[cfg(feature = "virtual-time")]
mod resume;
mod session;
#[cfg(feature = "virtual-time")]
mod time;
