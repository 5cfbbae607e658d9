//! The state of the running endpoint that its commands share. `reload`, `reconcile` and `routing`
//! change it; `handle` offers it to the control plane.

use super::active_config::ActiveConfig;
use super::assemble::RuntimeInfo;
use super::audit;
use super::capture::Capture;
use super::conflicts::Conflicts;
use super::failures::Strangers;
use super::names::NameService;
use super::pipeline::ShardPipeline;
use super::port_log;
use super::shards::Shards;
use super::smb_events::SmbHistory;
use crate::admin::SharedLinks;
use crate::confine::Confined;
use crate::host::{FurtherAddresses, Reconciler};
use crate::logging::Log;
use std::cell::{Cell, RefCell};
use tokio::sync::Mutex;
use vcgate_io::shard::ShardHandle;

/// The running endpoint.
pub(super) struct EndpointHandle {
    pub(super) info: RuntimeInfo,
    /// Locked for the whole of each change.
    pub(super) active: Mutex<ActiveConfig>,
    pub(super) listen_port: Cell<u16>,
    pub(super) shards: Shards,
    pub(super) smb: SmbHistory,
    pub(super) capture: Capture,
    pub(super) conflicts: RefCell<Conflicts>,
    pub(super) strangers: RefCell<Strangers>,
    pub(super) port_log: port_log::Sender,
    pub(super) audit: audit::Sender,
    pub(super) reconciler: Reconciler,
    pub(super) further: FurtherAddresses,
    pub(super) confined: Confined,
    pub(super) names: NameService,
    pub(super) links: SharedLinks,
    pub(super) log: Log,
}

/// The parts of a started endpoint beside its shards.
pub(super) struct Parts {
    pub(super) port_log: port_log::Sender,
    pub(super) audit: audit::Sender,
    pub(super) reconciler: Reconciler,
    pub(super) further: FurtherAddresses,
    pub(super) confined: Confined,
    pub(super) names: NameService,
    pub(super) links: SharedLinks,
    pub(super) log: Log,
}

impl EndpointHandle {
    pub(super) fn new(
        info: RuntimeInfo,
        active: ActiveConfig,
        shards: Vec<ShardHandle<ShardPipeline>>,
        parts: Parts,
    ) -> Self {
        let Parts {
            port_log,
            audit,
            reconciler,
            further,
            confined,
            names,
            links,
            log,
        } = parts;
        Self {
            listen_port: Cell::new(info.listen_port),
            info,
            active: Mutex::new(active),
            shards: Shards::new(shards),
            smb: SmbHistory::default(),
            capture: Capture::default(),
            conflicts: RefCell::default(),
            strangers: RefCell::default(),
            port_log,
            audit,
            reconciler,
            further,
            confined,
            names,
            links,
            log,
        }
    }
}
