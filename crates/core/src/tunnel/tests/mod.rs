//! The tunnel as a whole, between two tunnels and against bare boringtun.

mod attack;
mod change;
#[cfg(feature = "virtual-time")]
mod crossed;
#[cfg(feature = "virtual-time")]
mod failures;
#[cfg(feature = "virtual-time")]
mod flood;
mod net;
mod session;
#[cfg(feature = "virtual-time")]
mod time;
