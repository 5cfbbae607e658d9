//! Simulators and oracles that tests, benchmarks and fuzz targets share. Never part of a release.

#![allow(missing_docs)] // its users read the code

pub mod fuzz;
pub mod journal;
pub mod smb;
