//! Looks up the host's addresses on the LAN, as the kernel reports them, and those of the endpoint's
//! name. It sends no packets but the query to the DNS.

use crate::config::{Config, DomainName, Endpoint, HostLan, HostNetwork, Loaded, Problem};
use crate::host::{Netlink, ResolvConf, lan_view};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Maximum time for a query to the DNS.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the addresses on `interface`, or else on that of the default route, and those of the
/// endpoint's name. Lists are empty if a lookup fails.
pub fn look(interface: Option<&str>, endpoint: Option<&Endpoint>) -> HostNetwork {
    let addresses = addresses(interface).unwrap_or_else(|error| {
        tracing::debug!("{error:#}");
        Vec::new()
    });
    HostNetwork {
        addresses,
        endpoint: endpoint.map(resolve).unwrap_or_default(),
        search: search(),
    }
}

/// Looks up the addresses of the LAN that this configuration names.
pub fn of(config: &Config) -> HostNetwork {
    look(
        config.lan.interface.as_deref(),
        config.interface.endpoint.as_ref(),
    )
}

/// Returns the search domains of this machine; none if they cannot be read.
fn search() -> Vec<DomainName> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let read = runtime.and_then(|runtime| runtime.block_on(ResolvConf::read()));
    read.unwrap_or_default().search
}

/// Resolves a name. Returns no addresses for an address, or if the DNS does not answer.
fn resolve(endpoint: &Endpoint) -> Vec<IpAddr> {
    if endpoint.host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return Vec::new();
    };
    let asked = lookup_host((endpoint.host.as_str(), endpoint.port));
    let found = runtime.block_on(async { timeout(DNS_TIMEOUT, asked).await });
    let found = match found {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    // A resolver that hangs must not delay the command.
    runtime.shutdown_background();
    found
}

/// Reports what in `[lan]` does not fit this machine. Reports nothing if the kernel cannot be asked.
pub fn check_lan(loaded: &Loaded) -> Vec<Problem> {
    match host_lan(&loaded.config.interface.name) {
        Ok(host) => loaded.check_lan(&host),
        Err(error) => {
            tracing::debug!("{error:#}");
            Vec::new()
        }
    }
}

fn host_lan(tun: &str) -> anyhow::Result<HostLan> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(lan_view(tun))?)
}

fn addresses(interface: Option<&str>) -> anyhow::Result<Vec<IpNet>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let interface = runtime.block_on(async {
        let netlink = Netlink::connect()?;
        match interface {
            Some(name) => netlink.interface(name).await,
            None => netlink.default_interface().await,
        }
    })?;
    Ok(reachable(interface.addresses))
}

/// Removes link-local addresses.
pub fn reachable(mut addresses: Vec<IpNet>) -> Vec<IpNet> {
    addresses.retain(|net| !is_link_local(net.addr()));
    addresses
}

/// Whether routers do not forward to it (RFC 3927, RFC 4291 section 2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_an_interface_are_found() {
        let loopback = "127.0.0.1/8".parse().unwrap();
        assert!(look(Some("lo"), None).addresses.contains(&loopback));
        assert!(look(Some("vcgate-none"), None).addresses.is_empty());
    }

    #[test]
    fn link_local_addresses_are_recognized() {
        for (address, is) in [
            ("169.254.3.4", true),
            ("fe80::1", true),
            ("192.168.77.5", false),
            ("fd00:77::5", false),
        ] {
            assert_eq!(is_link_local(address.parse().unwrap()), is, "{address}");
        }
    }
}
