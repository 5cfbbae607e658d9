//! What the fuzz targets do with their input, so that `cargo fuzz run` and the tests that replay
//! the corpus do the same.
//!
//! A target takes any bytes. It panics if it finds something wrong, and only then.

mod action_oracle;
mod diagnose;
mod engine;
mod hook;
mod input;
mod ip;
mod nbss;
mod packets;
mod raw;
mod said;
mod smb1;
#[cfg(test)]
mod tests;

pub use diagnose::diagnose;
pub use engine::{engine, snapshot, tunnel};
pub use hook::hook;
pub use ip::ip;
pub use nbss::nbss;
pub use smb1::smb1;
