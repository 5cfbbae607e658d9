//! Writes a client's configuration, in the format of wg-quick and the WireGuard apps.

use super::client_files::{self, checksum_line};
use super::client_routes;
use super::exclusion::exclude;
use super::problem::{Diagnostic, Problem, Problems};
use super::{Config, Endpoint, HostNetwork, Peer, dns};
use crate::keys::{PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Interval at which a client sends keepalives, for its router's mapping, in seconds.
const CLIENT_KEEPALIVE: u16 = 25;

/// A client's configuration.
#[derive(Clone)]
pub struct Client {
    /// The peer's name.
    pub name: String,
    /// The file of its configuration.
    pub path: PathBuf,
    /// Its present configuration.
    pub text: Zeroizing<String>,
    /// Information that must be added by hand.
    pub lacks: Vec<MissingInfo>,
    /// Warnings; the configuration can be used nevertheless.
    pub warnings: Vec<Problem>,
}

/// Information that a client's configuration may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingInfo {
    /// The private key: the client made it itself.
    PrivateKey,
    /// The address to connect to: neither the configuration nor the host has one.
    Endpoint,
}

/// Makes the configuration of a client.
///
/// # Errors
/// If there is no such peer.
pub fn client(config: &Config, name: &str, host: &HostNetwork) -> Result<Client, Problems> {
    let Some(peer) = config.peer(name) else {
        return Err(Problems::one(&config.path, no_peer(config, name)));
    };
    let path = client_files::configuration(config.dir(), peer);
    let path = path.unwrap_or_else(|| client_files::configuration_path(config.dir(), name));
    Ok(client_at(config, peer, path, host))
}

/// Makes the configuration of a client that is or will be in this file.
pub(super) fn client_at(config: &Config, peer: &Peer, path: PathBuf, host: &HostNetwork) -> Client {
    let private = client_files::private_key(config.dir(), peer).map(|(_, key)| key);
    let endpoint = endpoint(config, host);
    let no_key = private.is_none().then_some(MissingInfo::PrivateKey);
    let no_endpoint = endpoint.is_none().then_some(MissingInfo::Endpoint);
    let unresolved = endpoint
        .as_ref()
        .filter(|endpoint| addresses(endpoint, host).is_empty());
    Client {
        name: peer.name.clone(),
        warnings: unresolved
            .map(|endpoint| no_address(&path, endpoint))
            .into_iter()
            .collect(),
        path,
        text: render(config, peer, private.as_ref(), endpoint.as_ref(), host),
        lacks: no_key.into_iter().chain(no_endpoint).collect(),
    }
}

/// Returns the error for a name that no peer has.
pub(super) fn no_peer(config: &Config, name: &str) -> Diagnostic {
    let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
    let remedy = match super::document::nearest(name, &names) {
        Some(known) => format!("did you mean {known:?}?"),
        None => "\"vcgate peer list\" shows all".to_owned(),
    };
    Diagnostic::new(format!("no peer is called {name:?}"), remedy)
}

/// Returns the address that the client connects to: the configured one, else the host's.
fn endpoint(config: &Config, host: &HostNetwork) -> Option<Endpoint> {
    let lan = host.address().map(|address| Endpoint {
        host: address.to_string(),
        port: config.interface.listen_port,
    });
    config.interface.endpoint.clone().or(lan)
}

/// Returns the addresses of the endpoint; empty if its name was not resolved.
fn addresses(endpoint: &Endpoint, host: &HostNetwork) -> Vec<IpAddr> {
    match endpoint.host.parse() {
        Ok(address) => vec![address],
        Err(_) => host.endpoint.clone(),
    }
}

/// Returns the warning that the endpoint may be in the client's AllowedIPs.
fn no_address(path: &Path, endpoint: &Endpoint) -> Problem {
    let what = format!(
        "cannot resolve {}: if its address is in AllowedIPs, the client sends the tunnel's own \
         packets into the tunnel",
        endpoint.host
    );
    let remedy = "write an address as interface.endpoint, or try again when the name resolves";
    Problem {
        file: path.to_owned(),
        line: None,
        wrong: Diagnostic::new(what, remedy),
    }
}

fn render(
    config: &Config,
    peer: &Peer,
    private: Option<&PrivateKey>,
    endpoint: Option<&Endpoint>,
    host: &HostNetwork,
) -> Zeroizing<String> {
    // Reserved from the start: a string that grows leaves copies of secrets in memory.
    let mut text = Zeroizing::new(String::with_capacity(16384));
    // Writing to a string cannot fail.
    let _ = write_client(&mut text, config, peer, private, endpoint, host);
    text
}

fn write_client(
    text: &mut String,
    config: &Config,
    peer: &Peer,
    private: Option<&PrivateKey>,
    endpoint: Option<&Endpoint>,
    host: &HostNetwork,
) -> std::fmt::Result {
    let interface = &config.interface;
    let profile = peer.client.or(&config.client);
    writeln!(text, "# {}", peer.name)?;
    writeln!(text, "[Interface]")?;
    match private {
        Some(key) => writeln!(text, "PrivateKey = {}", key.to_base64().as_str())?,
        None => writeln!(text, "{}{})", client_files::KEY_OF, peer.public_key)?,
    }
    writeln!(text, "Address = {}", list(&own_addresses(config, peer)))?;
    if let Some(dns) = dns::client_line(config, peer, host) {
        writeln!(text, "DNS = {dns}")?;
    }
    writeln!(text, "MTU = {}", profile.mtu.unwrap_or(interface.mtu))?;
    writeln!(text)?;
    writeln!(text, "[Peer]")?;
    let server: PublicKey = interface.private_key.public_key();
    writeln!(text, "PublicKey = {server}")?;
    if let Some(key) = &peer.preshared_key {
        writeln!(text, "PresharedKey = {}", key.to_base64().as_str())?;
    }
    match endpoint {
        Some(endpoint) => writeln!(text, "Endpoint = {endpoint}")?,
        None => writeln!(text, "# Endpoint = (host):{}", interface.listen_port)?,
    }
    let mut allowed = client_routes::of(config, peer, host);
    for address in endpoint
        .iter()
        .flat_map(|endpoint| addresses(endpoint, host))
    {
        allowed = exclude(&allowed, address);
    }
    writeln!(text, "AllowedIPs = {}", list(&allowed))?;
    match profile.keepalive.unwrap_or(CLIENT_KEEPALIVE) {
        0 => {}
        seconds => writeln!(text, "PersistentKeepalive = {seconds}")?,
    }
    writeln!(text, "{}", checksum_line(text))
}

/// Returns the peer's addresses in the tunnel, without networks of its site.
fn own_addresses(config: &Config, peer: &Peer) -> Vec<IpNet> {
    let tunnel = &config.interface.address;
    let in_tunnel = |net: &&IpNet| tunnel.iter().any(|tunnel| tunnel.trunc().contains(*net));
    let mut own: Vec<IpNet> = peer.allowed_ips.iter().filter(in_tunnel).copied().collect();
    if own.is_empty() {
        own.clone_from(&peer.allowed_ips);
    }
    own
}

fn list(nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    nets.join(", ")
}
