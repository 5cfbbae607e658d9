//! The configuration: the TOML model, its validation, and what clients are given.
//!
//! Never touches the network.
