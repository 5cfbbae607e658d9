//! The running endpoint: starts the crates and the host's set-up, connects them, and stops them.
//!
//! Steps that leave no trace when they fail (device, port, sockets) come first, and changes of the
//! host last, so that a failure leaves nothing half set up. It contains no packet logic.
//!
//! ```text
//! handle           the operations of the control plane
//! reload           changes of peers, rules and forwards
//! lan_addresses    LAN addresses that come and go
//! expiry           peers whose time is over
//! reconcile        changes of the host
//! routing          routes, egress and policy, after changes of either kind
//! state            the state that these share
//! device           peers and keys as `wg` shows and sets them
//! capture          `vcgate capture`
//! smb_events       the events of the SMB hook
//! conflicts        conflicts about the LAN address
//! names            the DNS server for clients
//! failures         reasons why clients cannot connect
//! shards           requests to the shards
//! pipeline         the engine as a shard drives it
//! assemble         the settings of the engine, the host and the sockets
//! peer_directory   names and rules of peers by public key
//! active_config    the configuration in force
//! flow_store       flows from one run to the next
//! flow_journal     the thread that writes the flow journal
//! flow_file        the file of the flow journal
//! server_connections  connections that are reset if no run continues them
//! port_log         changes of port blocks, to the log file
//! report           reports about an engine
//! error            the errors of an endpoint
//! ```
//!
//! A file imports only files below it.

mod active_config;
mod assemble;
mod audit;
mod capture;
mod conflicts;
mod device;
mod error;
mod expiry;
mod failures;
mod flow_file;
mod flow_journal;
mod flow_store;
mod handle;
mod lan_addresses;
mod names;
mod peer_directory;
mod peer_store;
mod pipeline;
mod port_log;
mod reconcile;
mod reload;
mod report;
mod routing;
mod server_connections;
mod service;
mod shards;
mod smb_events;
mod state;

use crate::admin::{Listeners, SharedLinks};
use crate::config::Config;
use crate::confine;
use crate::control::listener::Listener;
use crate::control::{local, socket, uapi};
use crate::doctor::{self, Subject};
use crate::host::Setup;
use crate::logging::Log;
use active_config::ActiveConfig;
use assemble::RuntimeInfo;
use audit::AuditLog;
pub use error::EndpointError;
use flow_journal::FlowJournal;
use names::NameService;
use pipeline::ShardPipeline;
use port_log::PortLog;
use state::{EndpointHandle, Parts};
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::{Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use vcgate_core::engine::Engine;
use vcgate_core::journal::State;
use vcgate_io::shard::Threads;
use vcgate_io::tun::{Offload, Tun};
use vcgate_io::udp::Udp;

/// Checks whether an endpoint could start: that its name is free, and that this user may listen on
/// its sockets and create its device. It leaves nothing.
///
/// # Errors
/// If an endpoint could not start.
pub async fn probe(name: &str) -> Result<(), EndpointError> {
    let _uapi = Listener::bind(Path::new(uapi::DIRECTORY), name)?;
    let _control = Listener::bind(Path::new(socket::DIRECTORY), name)?;
    let _tun = Tun::create(name, Offload::None)?;
    Ok(())
}

/// Runs the endpoint until SIGTERM or SIGINT; SIGHUP makes it read its configuration again. The
/// host's set-up is undone in all cases.
///
/// # Errors
/// If the endpoint cannot start, or fails while it runs.
pub async fn run(mut config: Config, log: Log) -> Result<(), EndpointError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // A reload reads it again, and commands in other directories are given it.
    config.path = std::path::absolute(&config.path)?;
    let name = &*config.interface.name.clone();
    let plan = assemble::host_plan(&config);
    Setup::check(&plan).await?;
    let uapi_listener = Listener::bind(Path::new(uapi::DIRECTORY), name)?;
    let control_listener = Listener::bind(Path::new(socket::DIRECTORY), name)?;
    let listeners = Listeners::bind(&config)?;
    let tun = Tun::create(name, config.offload.tun)?;
    tracing::info!(interface = name, offloads = ?tun.offloads(), "TUN device ready");
    let settings = assemble::udp_settings(config.offload, config.interface.listen_port);
    let sockets = Udp::bind_all(settings, assemble::shards(&config))?;

    let port_log = PortLog::open(config.nat.log.as_ref())?;
    let audit_log = AuditLog::open(config.audit.as_ref())?;

    let setup = Setup::apply(&plan).await?;
    let result = async {
        let info = RuntimeInfo::new(&config, &setup, &tun, &sockets);
        let (sender, events) = pipeline::event_channel();
        let (failures, failure_reports) = failures::channel();
        let port_log = port_log.sender(info.addresses());
        for forward in &config.forwards {
            port_log.forward(
                forward,
                config.owner(forward.to.ip()).map(|peer| &*peer.name),
            );
        }
        let flows = flow_file::path(&config);
        let reconciler = setup.reconciler();
        let mut active = ActiveConfig {
            routes: setup.routes(),
            egress: setup.egress(),
            on_lan: setup.lan_networks(),
            broadcasts: reconciler.broadcasts().await?,
            config,
        };
        let peers = active.active_peers(SystemTime::now()).into_iter();
        let of_peers: Vec<_> = peers.flat_map(|peer| peer.allowed_ips.clone()).collect();
        active.set_routes(of_peers).await;
        let (names, dns_sockets) = NameService::open(&active, setup.lan_interface()).await;
        let mut engines = flow_store::engines(&active, &info, flow_store::load(&flows))?;
        let totals = peer_store::path(&active.config);
        peer_store::restore(&totals, &mut engines);
        let now = Instant::now();
        engines
            .iter_mut()
            .for_each(|engine| engine.resume_sessions(now));
        let connections = server_connections::path(&active.config);
        let recorded = server_connections::recorded(&connections, &engines);
        flow_file::remove_abandoned(Path::new(socket::DIRECTORY), SystemTime::now());
        let journal = FlowJournal::start(flows, journal_state(&mut engines, now), engines.len())?;
        let pipeline = |(shard, engine)| {
            ShardPipeline::new(
                engine,
                sender.clone(),
                port_log.clone(),
                failures.clone(),
                journal.sender(shard),
            )
        };
        let pipelines = engines.into_iter().enumerate().map(pipeline);
        let mut threads = Threads::start(pipelines.zip(sockets).collect(), tun)?;
        let shards = threads.handles();
        journal.set_request(Box::new(move || {
            for shard in &shards {
                // The answer comes through the journal's queue.
                drop(shard.with(|pipeline, now| pipeline.send_snapshot(now)));
            }
        }));
        active.warn_without_networks();
        let peers = active.active_peers(SystemTime::now());
        active.warn_of_covered_networks(peers.iter().map(|peer| active_config::prefixes(peer)));
        tracing::info!(
            interface = name,
            port = active.config.interface.listen_port,
            peers = peers.len(),
            "ready"
        );
        let filtered = assemble::doctor_subject(&active.config, setup.lan_interface());
        let defence = setup.defence()?;
        let changes = reconciler.monitor()?;
        let url = active.config.admin.as_ref().and_then(|admin| admin.url.as_ref());
        let links = SharedLinks::new(url.map(|url| url.text.clone()));
        let (local_sender, local_requests) = local::queue();
        // Without listeners the queue is closed, and nothing is served.
        listeners.start(&active.config, local_sender, links.clone())?;
        // From here on nothing is opened but what a reload and the reconciler need.
        let confined = confine::control(&assemble::needs(&active.config, info.announces));
        let parts = Parts {
            port_log,
            audit: audit_log.sender(),
            reconciler,
            further: setup.further(),
            confined,
            names,
            links,
            log,
        };
        let running = EndpointHandle::new(info, active, threads.handles(), parts);
        let running = Rc::new(running);
        service::ready();
        let end = tokio::select! {
            failure = threads.failed() => Err(failure.into()),
            never = uapi::serve(&uapi_listener, Rc::clone(&running)) => match never {},
            never = socket::serve(&control_listener, Rc::clone(&running)) => match never {},
            never = local::serve(local_requests, Rc::clone(&running)) => match never {},
            never = running.smb.record_all(&running.shards, events) => match never {},
            never = failures::log_all(&running.active, &running.strangers, failure_reports) => match never {},
            never = running.audit.follow_sessions(&running.shards) => match never {},
            never = running.reload_at(&mut hangup) => match never {},
            never = running.names.serve(dns_sockets) => match never {},
            never = running.follow_resolv_conf() => match never {},
            never = running.reconcile(changes) => match never {},
            never = running.end_expired_peers() => match never {},
            never = peer_store::write_regularly(&totals, &running.shards) => match never {},
            never = server_connections::keep(&connections, recorded, &running.shards) => match never {},
            never = service::feed_watchdog(&running.shards) => match never {},
            never = warn_of_drops(&filtered) => match never {},
            never = conflicts::defend(&running.conflicts, &running.further, defence) => match never {},
            never = setup.keep_claim() => match never {},
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
        setup.renew_claim();
        // Also after a failure: the next run continues with the flows of intact shards.
        let pipelines = threads.stop().await;
        let engines = || {
            let pipelines = pipelines.iter();
            pipelines.map(|pipeline| Some(&pipeline.as_ref()?.engine))
        };
        let now = Instant::now();
        let records = engines().flatten().flat_map(|e| e.final_snapshot(now));
        let complete = engines().all(|engine| engine.is_some());
        journal.stop(records.collect(), complete);
        peer_store::write(&totals, engines());
        server_connections::write(&connections, engines());
        end
    }
    .await;
    port_log.stop();
    audit_log.stop();
    // The first error is the cause; an error in undoing the set-up comes second.
    let undone = setup.undo().await;
    result.and(undone.map_err(EndpointError::from))
}

/// Makes the engines collect their changes, and returns the state before them.
fn journal_state(engines: &mut [Engine], now: Instant) -> State {
    let mut state = State::default();
    state.advance(SystemTime::now().into());
    for engine in engines {
        engine.collect_changes();
        let records = engine.journal_snapshot(now);
        records.into_iter().for_each(|record| state.apply(record));
    }
    state
}

/// Warns once of firewalls that drop the endpoint's packets.
async fn warn_of_drops(subject: &Subject) -> Infallible {
    doctor::warn_of_drops(subject).await;
    std::future::pending().await
}
