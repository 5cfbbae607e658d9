//! A change that was made in the file, made in the running endpoint too.

use std::path::Path;
use vcgate::config;
use vcgate::control::client::{Client, ClientError};

/// What became of it.
pub enum ApplyResult {
    /// The endpoint of this interface has taken it over.
    Done(String),
    /// It does not run.
    NotRunning,
    /// The endpoint will not have it.
    Refused(ClientError),
    /// Nobody knows.
    Failed(ClientError),
}

impl ApplyResult {
    /// What is to be said of it, where that is good news.
    pub fn told(&self) -> String {
        match self {
            Self::Done(interface) => format!("{interface} is running and has taken it over.\n"),
            _ => String::new(),
        }
    }

    /// The interface of the endpoint that has taken it over, for scripts.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Done(interface) => Some(interface),
            _ => None,
        }
    }

    /// An error where the file says one thing now and the endpoint does another.
    pub fn agrees(self, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::Done(_) | Self::NotRunning => Ok(()),
            Self::Refused(error) | Self::Failed(error) => Err(anyhow::anyhow!(
                "{} is changed, but the running endpoint is not: {error}; `vcgate reload` lets it read the file again",
                path.display()
            )),
        }
    }
}

/// The running endpoint that reads this configuration, if there is one. It is asked for before the
/// file is changed: an endpoint of the same name that reads another file is an error.
pub fn find(path: &Path) -> anyhow::Result<Option<Client>> {
    match Client::of(&config::load(path)?.config) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the same change in the running endpoint of this configuration, if it runs. Nothing is to
/// be printed before: nobody may be reading.
pub fn change(
    endpoint: Option<&Client>,
    change: impl FnOnce(&Client) -> Result<(), ClientError>,
) -> ApplyResult {
    let Some(endpoint) = endpoint else {
        return ApplyResult::NotRunning;
    };
    match change(endpoint) {
        Ok(()) => ApplyResult::Done(endpoint.name().to_owned()),
        Err(ClientError::NotRunning { .. }) => ApplyResult::NotRunning,
        Err(error @ ClientError::Refused(_)) => ApplyResult::Refused(error),
        Err(error) => ApplyResult::Failed(error),
    }
}
