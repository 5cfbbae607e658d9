//! `vcgate metrics`: what the endpoint counts, for a monitoring system.

use super::output;
use vcgate::control::client::Client;
use vcgate::control::metrics;

/// Prints the metrics of the endpoint.
pub fn run(endpoint: &Client) -> anyhow::Result<()> {
    let status = endpoint.status()?;
    output::print(&metrics::of(&status)?)
}
