//! A client's configuration, in the form that wg-quick and the WireGuard apps take.

use super::client_files;
use super::exclusion::without;
use super::problem::{Diagnostic, Problem, Problems};
use super::{Config, Endpoint, HostNetwork, Peer};
use crate::keys::{PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How often a client sends something to keep its own router's mapping, in seconds.
const CLIENT_KEEPALIVE: u16 = 25;

/// What a client gets.
#[derive(Clone)]
pub struct Client {
    /// The peer's name.
    pub name: String,
    /// Where its configuration was written when the peer was added.
    pub path: PathBuf,
    /// Its configuration as of now.
    pub text: Zeroizing<String>,
    /// What the client, or whoever sets it up, must put in.
    pub lacks: Vec<MissingInfo>,
    /// Doubts about the configuration, which can be handed out nevertheless.
    pub warnings: Vec<Problem>,
}

/// What a client's configuration may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingInfo {
    /// The private key: the client made it itself.
    PrivateKey,
    /// What to connect to: neither the configuration nor the network says it.
    Endpoint,
}

/// The configuration for one client, as of now.
pub fn client(config: &Config, name: &str, around: &HostNetwork) -> Result<Client, Problems> {
    let Some(peer) = config.peer(name) else {
        return Err(Problems::one(&config.path, no_peer(config, name)));
    };
    let path = client_files::configuration(config.dir(), peer);
    let path = path.unwrap_or_else(|| client_files::configuration_path(config.dir(), name));
    Ok(client_at(config, peer, path, around))
}

/// The configuration for a client, as of now, that is or will be in this file.
pub(super) fn client_at(
    config: &Config,
    peer: &Peer,
    path: PathBuf,
    around: &HostNetwork,
) -> Client {
    let private = client_files::private_key(config.dir(), peer).map(|(_, key)| key);
    let endpoint = endpoint(config, around);
    let no_key = private.is_none().then_some(MissingInfo::PrivateKey);
    let no_endpoint = endpoint.is_none().then_some(MissingInfo::Endpoint);
    let unresolved = endpoint
        .as_ref()
        .filter(|endpoint| addresses(endpoint, around).is_empty());
    Client {
        name: peer.name.clone(),
        warnings: unresolved
            .map(|endpoint| no_address(&path, endpoint))
            .into_iter()
            .collect(),
        path,
        text: render(config, peer, private.as_ref(), endpoint.as_ref(), around),
        lacks: no_key.into_iter().chain(no_endpoint).collect(),
    }
}

/// What to say of a name that no peer has.
pub(super) fn no_peer(config: &Config, name: &str) -> Diagnostic {
    let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
    let remedy = match super::document::nearest(name, &names) {
        Some(known) => format!("did you mean {known:?}?"),
        None => "\"vcgate peer list\" shows all".to_owned(),
    };
    Diagnostic::new(format!("no peer is called {name:?}"), remedy)
}

/// What the client connects to, if anything says it.
fn endpoint(config: &Config, around: &HostNetwork) -> Option<Endpoint> {
    let lan = around.address().map(|address| Endpoint {
        host: address.to_string(),
        port: config.interface.listen_port,
    });
    config.interface.endpoint.clone().or(lan)
}

/// The addresses of the endpoint; none where its name could not be resolved.
fn addresses(endpoint: &Endpoint, around: &HostNetwork) -> Vec<IpAddr> {
    match endpoint.host.parse() {
        Ok(address) => vec![address],
        Err(_) => around.endpoint.clone(),
    }
}

/// The warning that the endpoint may lie inside the client's own AllowedIPs.
fn no_address(path: &Path, endpoint: &Endpoint) -> Problem {
    let what = format!(
        "cannot resolve {}: should its address lie inside AllowedIPs, the client sends the tunnel's \
         own packets into the tunnel",
        endpoint.host
    );
    let remedy =
        "write the address itself as interface.endpoint, or ask again when the name resolves";
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
    around: &HostNetwork,
) -> Zeroizing<String> {
    // Room from the start: a string that grows leaves its beginnings behind.
    let mut text = Zeroizing::new(String::with_capacity(16384));
    // Writing to a string cannot fail.
    let _ = write_client(&mut text, config, peer, private, endpoint, around);
    text
}

fn write_client(
    text: &mut String,
    config: &Config,
    peer: &Peer,
    private: Option<&PrivateKey>,
    endpoint: Option<&Endpoint>,
    around: &HostNetwork,
) -> std::fmt::Result {
    let interface = &config.interface;
    writeln!(text, "# {}", peer.name)?;
    writeln!(text, "[Interface]")?;
    match private {
        Some(key) => writeln!(text, "PrivateKey = {}", key.to_base64().as_str())?,
        None => writeln!(text, "{}{})", client_files::KEY_OF, peer.public_key)?,
    }
    writeln!(text, "Address = {}", list(&own_addresses(config, peer)))?;
    writeln!(text, "MTU = {}", interface.mtu)?;
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
    let mut allowed = reachable(config, around);
    for address in endpoint
        .iter()
        .flat_map(|endpoint| addresses(endpoint, around))
    {
        allowed = without(&allowed, address);
    }
    writeln!(text, "AllowedIPs = {}", list(&allowed))?;
    writeln!(text, "PersistentKeepalive = {CLIENT_KEEPALIVE}")
}

/// The peer's own addresses; a network behind it is not its own.
fn own_addresses(config: &Config, peer: &Peer) -> Vec<IpNet> {
    let tunnel = &config.interface.address;
    let in_tunnel = |net: &&IpNet| tunnel.iter().any(|tunnel| tunnel.trunc().contains(*net));
    let mut own: Vec<IpNet> = peer.allowed_ips.iter().filter(in_tunnel).copied().collect();
    if own.is_empty() {
        own.clone_from(&peer.allowed_ips);
    }
    own
}

/// What lies behind the endpoint: the tunnel itself and the LAN's networks.
fn reachable(config: &Config, around: &HostNetwork) -> Vec<IpNet> {
    let lan = match config.lan.networks.is_empty() {
        true => around.networks(config.lan.address6.is_some()),
        false => config.lan.networks.clone(),
    };
    let tunnel = config.interface.address.iter().map(IpNet::trunc);
    tunnel.chain(lan).collect()
}

fn list(nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    nets.join(", ")
}
