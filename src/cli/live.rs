//! Applies changes of the file to the running endpoint.

use std::path::Path;
use vcgate::config;
use vcgate::control::client::{Client, ClientError};

/// The result of applying a change to the running endpoint.
pub(super) enum ApplyResult {
    /// The endpoint of this interface has applied it.
    Done(String),
    /// No endpoint is running.
    NotRunning,
    /// The endpoint refused it.
    Refused(ClientError),
    /// The request failed; the endpoint may have applied it or not.
    Failed(ClientError),
}

impl ApplyResult {
    /// Returns a sentence for the user if the change was applied.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Done(interface) => format!("{interface} is running and has applied it.\n"),
            _ => String::new(),
        }
    }

    /// Returns the interface of the endpoint that has applied the change.
    pub(super) fn interface(&self) -> Option<&str> {
        match self {
            Self::Done(interface) => Some(interface),
            _ => None,
        }
    }

    /// Returns an error if the endpoint differs from the file now.
    pub(super) fn into_result(self, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::Done(_) | Self::NotRunning => Ok(()),
            Self::Refused(error) | Self::Failed(error) => Err(anyhow::anyhow!(
                "{} is changed, but the running endpoint is not: {error}; run `vcgate reload`",
                path.display()
            )),
        }
    }
}

/// Finds the running endpoint that reads this configuration. Call this before the file is changed:
/// an endpoint of the same name that reads another file is an error.
pub(super) fn find(path: &Path) -> anyhow::Result<Option<Client>> {
    match Client::of(&config::load(path)?.config) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Applies a change to the running endpoint, if there is one. Print nothing before: stdout may be
/// closed.
pub(super) fn change(
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
