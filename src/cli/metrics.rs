//! `vcgate metrics`: what the endpoint counts, for a monitoring system.

use super::output;
use vcgate::control::client::Client;
use vcgate::control::metrics;

/// Prints the metrics of the endpoint `interface`, or of the only one.
pub fn run(interface: Option<&str>) -> anyhow::Result<()> {
    let status = Client::new(interface)?.status()?;
    output::print(&metrics::of(&status)?)
}
