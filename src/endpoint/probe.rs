//! Whether an endpoint could start here, before anything is made for it.

use super::EndpointError;
use crate::control::listener::Listener;
use crate::control::{socket, uapi};
use std::path::Path;
use vcgate_io::tun::{Offload, Tun};

/// Tries what a first start needs, and leaves nothing: that nobody has the name, and that this
/// user may serve it and make its device.
pub async fn probe(name: &str) -> Result<(), EndpointError> {
    let _uapi = Listener::bind(Path::new(uapi::DIRECTORY), name)?;
    let _control = Listener::bind(Path::new(socket::DIRECTORY), name)?;
    let _tun = Tun::create(name, Offload::None)?;
    Ok(())
}
