//! Reads this machine's interfaces and routes for the check of the `[lan]` section. It changes nothing.

use super::{HostError, Interface, Netlink};
use crate::config::HostLan;

/// Reads interfaces and routes, without the device `tun`. Needs a tokio runtime.
///
/// # Errors
/// Fails if the kernel does not list them.
pub async fn lan_view(tun: &str) -> Result<HostLan, HostError> {
    let netlink = Netlink::connect()?;
    let mut interfaces = netlink.interfaces().await?;
    interfaces.retain(|interface| interface.name != tun);
    let routes = netlink.main_routes().await?;
    let name = |index| interfaces.iter().find(|i| i.index == index);
    let routes = routes.into_iter();
    let routes = routes.filter_map(|(net, index)| Some((net, name(index)?.name.clone())));
    let routes = routes.collect();
    let networks = |interface: Interface| {
        let networks = interface.networks();
        (interface.name, networks)
    };
    Ok(HostLan {
        routes,
        interfaces: interfaces.into_iter().map(networks).collect(),
    })
}
