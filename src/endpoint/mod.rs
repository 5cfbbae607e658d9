//! The running endpoint: puts the rooms together and takes them apart again.
//!
//! It starts what can fail without a trace first (device, port, sockets) and changes the host
//! last, so that a failure leaves nothing half set up. It holds no logic of any room.

mod assemble;
mod device;
mod events;
mod lane;
mod report;

use crate::config::Config;
use crate::control::listener::{BindError, Listener};
use crate::control::{socket, uapi};
use crate::host::{HostError, Setup};
use crate::io::shard::{Failure, Shard};
use crate::io::tun::{Offload, Tun, TunError};
use crate::io::udp::{self, Udp, UdpError};
use crate::tunnel::PeerError;
use assemble::Facts;
use lane::Lane;
use report::Running;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Why the endpoint did not start, or stopped by itself. The messages name the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The UDP port.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// A control socket.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// Addresses, routes, forwarding.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A peer of the configuration.
    #[error("peer {name:?}: {source}")]
    Peer {
        /// Its name in the configuration.
        name: String,
        /// What is wrong with it.
        source: PeerError,
    },
    /// The data plane ended.
    #[error(transparent)]
    Shard(#[from] Failure),
    /// Threads, signals, random numbers.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs the endpoint until SIGTERM or SIGINT, or until it fails; the host is as before then.
pub async fn run(config: Config) -> Result<(), EndpointError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = &config.interface.name;
    let uapi_listener = Listener::bind(Path::new(uapi::DIRECTORY), name)?;
    let control_listener = Listener::bind(Path::new(socket::DIRECTORY), name)?;
    let tun = Tun::create(name, Offload::TcpAndUdp)?;
    let udp = Udp::bind(udp::Settings::on_port(config.interface.listen_port))?;

    let setup = Setup::apply(&assemble::host_plan(&config)).await?;
    let result = async {
        let facts = Facts::new(&config, &setup, &tun, &udp);
        let engine = assemble::engine(&config, &facts, Instant::now())?;
        let (sender, events) = events::channel();
        let mut shard = Shard::start(Lane::new(engine, sender), tun, udp)?;
        let running = Rc::new(Running::new(facts, shard.handle()));
        tracing::info!(
            interface = name,
            port = config.interface.listen_port,
            peers = config.peers.len(),
            "ready"
        );
        tokio::select! {
            failure = shard.failed() => return Err(failure.into()),
            never = uapi::serve(&uapi_listener, Rc::clone(&running)) => match never {},
            never = socket::serve(&control_listener, Rc::clone(&running)) => match never {},
            never = running.tell(events) => match never {},
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        shard.stop().await?;
        Ok(())
    }
    .await;
    // The first error is the reason; what the undoing says comes second.
    let undone = setup.undo().await;
    result.and(undone.map_err(EndpointError::from))
}
