//! Applies changes of the file to the running endpoint.

use crate::config;
use crate::control::client::{Client, ClientError};
use std::path::Path;

/// The result of applying a change to the running endpoint.
#[derive(Debug)]
pub enum ApplyResult {
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
    pub fn message(&self) -> String {
        match self {
            Self::Done(interface) => format!("{interface} is running and has applied it.\n"),
            _ => String::new(),
        }
    }

    /// Returns the interface of the endpoint that has applied the change.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Done(interface) => Some(interface),
            _ => None,
        }
    }

    /// Returns an error if the endpoint differs from the file now.
    ///
    /// # Errors
    /// If the endpoint refused the change, or may not have applied it.
    pub fn into_result(self, path: &Path) -> anyhow::Result<()> {
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
///
/// # Errors
/// If the configuration is invalid, or another one's endpoint has the name.
pub fn find(path: &Path) -> anyhow::Result<Option<Client>> {
    match Client::of(&config::load(path)?.config) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Applies a change to the running endpoint, if there is one. Print nothing before: stdout may be
/// closed.
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
