//! `vcgate metrics`: prints the endpoint's counters for a monitoring system.

use super::output;
use vcgate::control::client::Client;
use vcgate::control::metrics::{self, Format};

/// Prints the metrics of the endpoint: in Prometheus' text format, or as OpenMetrics.
pub(super) fn run(endpoint: &Client, openmetrics: bool) -> anyhow::Result<()> {
    let format = match openmetrics {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    };
    let status = endpoint.status()?;
    output::print(&metrics::of(&status, format)?)
}
