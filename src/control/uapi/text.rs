//! The text of the UAPI: parses requests and writes states. It is pure, except that it looks up the
//! numbers of interfaces.
//!
//! Lines are `key=value`, a blank line ends a request; keys of a peer follow its `public_key`.
//! Numbers are decimal, keys are 64 hex digits, and a key of zeros means none. The scope of a
//! link-local address is written as a number; `wg` writes a name and reads both.

use super::device::{
    AllowedIp, DeviceChange, DeviceState, Errno, KeyChange, PeerSection, PeerState, UapiError,
};
use super::hex::{from_hex, push_hex};
use crate::keys::{PresharedKey, PublicKey};
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};
use vcgate_io::interface_index;
use zeroize::Zeroizing;

/// The UAPI's notation for a missing key.
const ZERO_KEY: [u8; 32] = [0; 32];

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `get=1`
    Get,
    /// `set=1`
    Set(DeviceChange),
}

/// Parses a whole request, with or without its blank line.
///
/// # Errors
/// [`Errno::Protocol`] if it is not a request, [`Errno::Invalid`] for an unknown key or a bad value.
pub fn parse(request: &[u8]) -> Result<Request, UapiError> {
    let request = str::from_utf8(request)
        .map_err(|_| UapiError::new(Errno::Invalid, "the request is not UTF-8"))?;
    let mut lines = request.lines().take_while(|line| !line.is_empty());
    match lines.next() {
        Some("get=1") => match lines.next() {
            None => Ok(Request::Get),
            Some(_) => Err(UapiError::new(Errno::Invalid, "a get has no more lines")),
        },
        Some("set=1") => parse_set(lines).map(Request::Set),
        _ => Err(UapiError::new(
            Errno::Protocol,
            "a request begins with get=1 or set=1",
        )),
    }
}

/// Writes the answer to `get=1`.
pub fn state(device: &DeviceState) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if let Some(key) = &device.private_key {
        push_key(&mut text, "private_key", key.secret().as_bytes());
    }
    push(&mut text, "listen_port", device.listen_port);
    push(&mut text, "fwmark", device.fwmark);
    for peer in &device.peers {
        push_peer(&mut text, peer);
    }
    text.push_str(&errno(0));
    text
}

/// Writes the end of every answer: 0, or a negative error number.
pub fn errno(code: i32) -> Zeroizing<String> {
    Zeroizing::new(format!("errno={code}\n\n"))
}

fn parse_set<'a>(lines: impl Iterator<Item = &'a str>) -> Result<DeviceChange, UapiError> {
    let mut change = DeviceChange::default();
    for line in lines {
        let Some((key, value)) = line.split_once('=') else {
            return Err(UapiError::new(Errno::Protocol, "a line is not key=value"));
        };
        let understood = match (change.peers.last_mut(), key) {
            (_, "public_key") => public_key(value).map(|key| change.peers.push(section(key))),
            (Some(peer), _) => peer_line(peer, key, value),
            (None, _) => device_line(&mut change, key, value),
        };
        understood.ok_or_else(|| {
            let key: String = key.chars().take(40).collect(); // not the value: it may be secret
            UapiError::new(Errno::Invalid, format!("unknown key or bad value: {key:?}"))
        })?;
    }
    Ok(change)
}

fn device_line(change: &mut DeviceChange, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => change.private_key = Some(key_change(value)?),
        "listen_port" => change.listen_port = Some(number(value)?),
        "fwmark" => change.fwmark = Some(number(value)?),
        "replace_peers" => change.replace_peers = yes(value)?,
        _ => return None,
    }
    Some(())
}

fn peer_line(peer: &mut PeerSection, key: &str, value: &str) -> Option<()> {
    match key {
        "remove" => peer.remove = yes(value)?,
        "update_only" => peer.update_only = yes(value)?,
        "preshared_key" => peer.preshared_key = Some(key_change(value)?),
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = yes(value)?;
            peer.allowed_ips.clear(); // those of earlier lines would go as well
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        "protocol_version" => return (value == "1").then_some(()),
        _ => return None,
    }
    Some(())
}

fn section(public_key: PublicKey) -> PeerSection {
    PeerSection {
        public_key,
        remove: false,
        update_only: false,
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: None,
        replace_allowed_ips: false,
        allowed_ips: Vec::new(),
    }
}

fn public_key(value: &str) -> Option<PublicKey> {
    from_hex(value).map(|bytes| PublicKey::from(*bytes))
}

fn key_change<K: From<[u8; 32]>>(value: &str) -> Option<KeyChange<K>> {
    let bytes = from_hex(value)?;
    Some(if *bytes == ZERO_KEY {
        KeyChange::Clear
    } else {
        KeyChange::Set(K::from(*bytes))
    })
}

/// Parses an address and a port, with a scope (RFC 4007 section 11.2) by number or by interface name.
fn endpoint(value: &str) -> Option<SocketAddr> {
    value.parse().ok().or_else(|| {
        let (address, rest) = value.split_once('%')?;
        let (name, port) = rest.rsplit_once("]:")?;
        let scope = interface_index(name)?;
        format!("{address}%{scope}]:{port}").parse().ok()
    })
}

fn allowed_ip(value: &str) -> Option<AllowedIp> {
    let (make, net): (fn(_) -> _, _) = match value.strip_prefix('-') {
        Some(net) => (AllowedIp::Remove, net),
        None => (AllowedIp::Add, value.strip_prefix('+').unwrap_or(value)),
    };
    let net: ipnet::IpNet = net.parse().ok()?;
    Some(make(net.trunc()))
}

/// Parses digits. `str::parse` alone would accept a plus sign.
fn number<N: FromStr>(value: &str) -> Option<N> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten()
}

fn yes(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

fn push_peer(text: &mut String, peer: &PeerState) {
    let preshared_key = peer
        .preshared_key
        .as_ref()
        .map_or(&ZERO_KEY, PresharedKey::as_bytes);
    let handshake = peer.last_handshake.unwrap_or(UNIX_EPOCH);
    let since_1970 = handshake
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);

    push_key(text, "public_key", peer.public_key.as_bytes());
    push_key(text, "preshared_key", preshared_key);
    push(text, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        push(text, "endpoint", endpoint);
    }
    push(text, "last_handshake_time_sec", since_1970.as_secs());
    push(text, "last_handshake_time_nsec", since_1970.subsec_nanos());
    push(text, "tx_bytes", peer.tx_bytes);
    push(text, "rx_bytes", peer.rx_bytes);
    push(
        text,
        "persistent_keepalive_interval",
        peer.persistent_keepalive,
    );
    for net in &peer.allowed_ips {
        push(text, "allowed_ip", net);
    }
}

fn push(text: &mut String, key: &str, value: impl Display) {
    let _ = writeln!(text, "{key}={value}"); // writing to a String cannot fail
}

fn push_key(text: &mut String, name: &str, key: &[u8; 32]) {
    text.push_str(name);
    text.push('=');
    push_hex(text, key);
    text.push('\n');
}

#[cfg(test)]
mod tests;
