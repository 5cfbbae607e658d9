//! The errors of an endpoint, each with its remedy. It handles none.

use crate::admin::AdminError;
use crate::config::Port;
use crate::control::listener::BindError;
use crate::host::HostError;
use std::io;
use std::path::PathBuf;
use vcgate_core::nat::{ForwardError, LanAddressError};
use vcgate_core::tunnel::PeerError;
use vcgate_io::shard::Failure;
use vcgate_io::tun::TunError;
use vcgate_io::udp::UdpError;

/// The reason why the endpoint cannot start, or stopped by itself. The messages name the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The TUN device failed.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The UDP port failed.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// A control socket failed.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The administration page or the metrics cannot be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Addresses, routes or forwarding could not be set up.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A peer of the configuration cannot be added.
    #[error("peer {name:?}: {source}")]
    Peer {
        /// The peer's name.
        name: String,
        /// The cause.
        source: PeerError,
    },
    /// A peer of the configuration cannot have its own LAN address.
    #[error("peer {name:?}: {source}")]
    LanAddress {
        /// The peer's name.
        name: String,
        /// The cause.
        source: LanAddressError,
    },
    /// A forward of the configuration cannot be opened.
    #[error("forward {port}: {source}")]
    Forward {
        /// The port of the LAN address.
        port: Port,
        /// The cause.
        source: ForwardError,
    },
    /// The port log cannot be written.
    #[error("cannot write {}: {source}; set nat.log_file to a file that root can write", file.display())]
    PortLog {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The audit log cannot be written.
    #[error("cannot write {}: {source}; set audit.log_file to a file that root can write", file.display())]
    AuditLog {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The data plane ended.
    #[error(transparent)]
    Shard(#[from] Failure),
    /// A thread, a signal handler or a random number is not available.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}
