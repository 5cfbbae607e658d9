//! The running endpoint: puts the rooms together and takes them apart again.
//!
//! It starts what can fail without a trace first (device, port, sockets) and changes the host
//! last, so that a failure leaves nothing half set up. It holds no logic of any room.

mod active_config;
mod assemble;
mod capture;
mod clock;
mod conflicts;
mod device;
mod events;
mod failures;
mod flow_store;
mod forwards;
mod handle;
mod pipeline;
mod ports;
mod probe;
mod reconcile;
mod reload;
mod report;
mod service;
mod smb_events;
mod unreached;

pub use probe::probe;

use crate::config::{Config, Port};
use crate::control::listener::{BindError, Listener};
use crate::control::{socket, uapi};
use crate::doctor::{self, Subject};
use crate::host::{HostError, Setup};
use crate::logging::Log;
use active_config::ActiveConfig;
use assemble::RuntimeInfo;
use handle::EndpointHandle;
use pipeline::ShardPipeline;
use ports::PortLog;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;
use tokio::signal::unix::{SignalKind, signal};
use vcgate_core::nat::ForwardError;
use vcgate_core::tunnel::PeerError;
use vcgate_io::shard::{Failure, Threads};
use vcgate_io::tun::{Tun, TunError};
use vcgate_io::udp::{Udp, UdpError};

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
    /// A forward of the configuration.
    #[error("forward {port}: {source}")]
    Forward {
        /// The port of the LAN address.
        port: Port,
        /// What is wrong with it.
        source: ForwardError,
    },
    /// The port log.
    #[error("cannot write {}: {source}; set nat.log_file to a file that root can write", file.display())]
    PortLog {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data plane ended.
    #[error(transparent)]
    Shard(#[from] Failure),
    /// Threads, signals, random numbers.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs the endpoint until SIGTERM or SIGINT, or until it fails; the host is as before then. SIGHUP
/// makes it read its configuration again.
pub async fn run(mut config: Config, log: Log) -> Result<(), EndpointError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // It is read again, and told to commands that run elsewhere.
    config.path = std::path::absolute(&config.path)?;
    let name = &*config.interface.name.clone();
    let plan = assemble::host_plan(&config);
    Setup::check(&plan).await?;
    let uapi_listener = Listener::bind(Path::new(uapi::DIRECTORY), name)?;
    let control_listener = Listener::bind(Path::new(socket::DIRECTORY), name)?;
    let tun = Tun::create(name, assemble::tun_offload(config.offload.tun))?;
    tracing::info!(interface = name, offloads = ?tun.offloads(), "TUN device ready");
    let settings = assemble::udp_settings(config.offload, config.interface.listen_port);
    let sockets = Udp::bind_all(settings, assemble::shards(&config))?;

    let port_log = PortLog::open(config.nat.log.as_ref())?;

    let setup = Setup::apply(&plan).await?;
    let result = async {
        let facts = RuntimeInfo::new(&config, &setup, &tun, &sockets);
        let (sender, events) = events::channel();
        let (failures, failure_reports) = failures::channel();
        let notes = port_log.sender(facts.external_address, facts.external_address6);
        for forward in &config.forwards {
            notes.forward(
                forward,
                config.owner(forward.to.ip()).map(|peer| &*peer.name),
            );
        }
        let flows = flow_store::path(&config);
        let guard = setup.reconciler();
        let force = ActiveConfig {
            routes: setup.routes(),
            egress: setup.egress(),
            on_lan: setup.lan_networks(),
            broadcasts: guard.broadcasts().await?,
            config,
        };
        let engines = flow_store::engines(&force, &facts, flow_store::take(&flows))?;
        flow_store::remove_abandoned(Path::new(socket::DIRECTORY), SystemTime::now());
        let lane =
            |engine| ShardPipeline::new(engine, sender.clone(), notes.clone(), failures.clone());
        let lanes = engines.into_iter().map(lane).zip(sockets).collect();
        let mut threads = Threads::start(lanes, tun)?;
        force.warn_without_networks();
        force.warn_of_taken(force.config.peers.iter().map(unreached::prefixes));
        tracing::info!(
            interface = name,
            port = force.config.interface.listen_port,
            peers = force.config.peers.len(),
            "ready"
        );
        let filtered = assemble::doctor_subject(&force.config, setup.lan_interface());
        let defence = setup.defence()?;
        let notices = guard.monitor()?;
        let running = EndpointHandle::new(facts, force, threads.handles(), notes, guard, log);
        let running = Rc::new(running);
        service::ready();
        let end = tokio::select! {
            failure = threads.failed() => Err(failure.into()),
            never = uapi::serve(&uapi_listener, Rc::clone(&running)) => match never {},
            never = socket::serve(&control_listener, Rc::clone(&running)) => match never {},
            never = running.tell(events) => match never {},
            never = running.report_failures(failure_reports) => match never {},
            never = running.reload_at(&mut hangup) => match never {},
            never = running.reconcile(notices) => match never {},
            never = warn_of_drops(&filtered) => match never {},
            never = running.defend(defence) => match never {},
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: stopping");
                Ok(())
            }
            _ = interrupt.recv() => {
                tracing::info!("SIGINT: stopping");
                Ok(())
            }
        };
        service::stopping();
        // After a failure too: the next run goes on with what is whole.
        let lanes = threads.stop().await;
        flow_store::write(
            &flows,
            lanes.iter().map(|lane| Some(&lane.as_ref()?.engine)),
        );
        end
    }
    .await;
    port_log.stop();
    // The first error is the reason; what the undoing says comes second.
    let undone = setup.undo().await;
    result.and(undone.map_err(EndpointError::from))
}

/// Warns of firewalls that drop what the endpoint lives on, once.
async fn warn_of_drops(subject: &Subject) -> Infallible {
    doctor::warn_of_drops(subject).await;
    std::future::pending().await
}
