//! The bodies of the fuzz targets, shared by `cargo fuzz run` and the tests that replay the corpus.
//!
//! A target accepts any bytes and panics only if it finds an error.

mod action_oracle;
mod corpus;
mod diagnose;
mod dns;
mod engine;
mod hook;
mod input;
mod ip;
mod nbss;
mod packets;
mod payloads;
mod raw;
mod smb1;
#[cfg(test)]
mod tests;

pub use corpus::replay;
pub use diagnose::diagnose;
pub use dns::dns;
pub use engine::{engine, journal, tunnel};
pub use hook::hook;
pub use ip::ip;
pub use nbss::nbss;
pub use smb1::smb1;
