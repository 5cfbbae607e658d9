//! A change that was made in the file, made in the running endpoint too.

use super::output;
use std::path::Path;
use vcgate::config;
use vcgate::control::client::{Client, ClientError};

/// What became of it.
pub enum Live {
    /// The endpoint has taken it over, or does not run.
    Done,
    /// The endpoint will not have it.
    Refused(ClientError),
}

/// Makes the same change in the running endpoint of this configuration, if it runs.
pub fn change(
    path: &Path,
    change: impl FnOnce(&Client) -> Result<(), ClientError>,
) -> anyhow::Result<Live> {
    let interface = config::load(path)?.config.interface.name;
    let done = Client::new(Some(&interface)).and_then(|endpoint| change(&endpoint));
    match done {
        Ok(()) => output::print(&format!("{interface} is running and has taken it over.\n"))?,
        Err(ClientError::NotRunning { .. }) => {}
        Err(error @ ClientError::Refused(_)) => return Ok(Live::Refused(error)),
        Err(error) => return Err(differs(path, &error)),
    }
    Ok(Live::Done)
}

/// The file says one thing now and the endpoint does another.
pub fn differs(path: &Path, error: &ClientError) -> anyhow::Error {
    anyhow::anyhow!(
        "{} is changed, but the running endpoint is not: {error}; `vcgate reload` lets it read the file again",
        path.display()
    )
}
