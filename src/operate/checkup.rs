//! The doctor's subject for a configuration.

use super::host_network;
use crate::config::{Loaded, Peer};
use crate::doctor::{self, Check, Subject};
use std::io;

/// Returns the settings to check, with what in `[lan]` does not fit this machine.
pub fn subject(loaded: &Loaded) -> Subject {
    let config = &loaded.config;
    Subject {
        tun: config.interface.name.clone(),
        listen_port: config.interface.listen_port,
        lan_interface: config.lan.interface.clone(),
        lan_address: config.lan.address,
        further_addresses: config.further_addresses(),
        lan_address6: config.lan.address6,
        lan_problems: host_network::check_lan(loaded),
        peers_with_everything: {
            let everything =
                |peer: &&Peer| peer.allowed_ips.iter().any(|net| net.prefix_len() == 0);
            let peers = config.peers.iter().filter(everything);
            peers.map(|peer| peer.name.clone()).collect()
        },
        dns: config.dns_addresses(),
    }
}

/// Checks the surroundings of a running endpoint.
///
/// # Errors
/// If there is no runtime for the checks.
pub fn surroundings(subject: &Subject) -> io::Result<Vec<Check>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(doctor::surroundings(subject)))
}

/// Returns the check of firewalls that may drop clients' datagrams, for a running endpoint.
///
/// # Errors
/// If there is no runtime for the checks.
pub fn input_filter(loaded: &Loaded) -> io::Result<Option<Check>> {
    let checks = surroundings(&subject(loaded))?;
    let mut checks = checks.into_iter();
    Ok(checks.find(|check| check.name == "input-filter"))
}
