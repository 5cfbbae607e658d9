//! Operations on a configuration file, and on the endpoint that runs with it: commands and the
//! administration API share them.
//!
//! ```text
//! peers         adds, changes and removes peers
//! why           reasons why a peer cannot connect
//! checkup       the doctor's subject
//! live          applies a change of the file to the endpoint
//! host_network  the addresses of this machine
//! qr            the QR code of a client's configuration
//! ```
//!
//! They print nothing and ask nothing.

pub mod checkup;
pub mod host_network;
pub mod live;
pub mod peers;
pub mod qr;
pub mod why;

use crate::config::Problems;
use crate::control::client::ClientError;

/// The reason why an operation changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The configuration, or the change of it, is invalid.
    #[error(transparent)]
    Invalid(#[from] Problems),
    /// The running endpoint refused the change, or does not answer.
    #[error(transparent)]
    Endpoint(#[from] ClientError),
}
