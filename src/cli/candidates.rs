//! Lists the interfaces of this host that may be on the LAN, as the kernel reports them. It sends no
//! packets and selects none.

use ipnet::IpNet;
use std::fmt;
use std::fs;
use std::path::Path;
use tokio::runtime::{Builder, Runtime};
use vcgate::host::{Interface, Netlink};
use vcgate::operate::host_network;

/// An interface that may be on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its name.
    pub name: String,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Whether the default route uses it; it may lead to the internet or to the LAN.
    pub is_default: bool,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(IpNet::to_string).collect();
        let default = if self.is_default {
            ", default route"
        } else {
            ""
        };
        write!(f, "{} ({}{default})", self.name, addresses.join(", "))
    }
}

/// Returns the interfaces that may be on the LAN: Ethernet or Wi-Fi, up, and with an IPv4 address that
/// is not link-local; without bridges of containers and virtual machines on this host.
pub(super) fn candidates() -> anyhow::Result<Vec<Candidate>> {
    let (interfaces, default) = runtime()?.block_on(async {
        let netlink = Netlink::connect()?;
        let default = netlink.default_interface().await.ok();
        anyhow::Ok((netlink.interfaces().await?, default))
    })?;
    let default = default.map(|interface| interface.name);
    let wanted = |interface: &Interface| {
        interface.up && interface.ethernet.is_some() && !is_inside(&interface.name)
    };
    let candidates = interfaces
        .into_iter()
        .filter(wanted)
        .map(|interface| Candidate {
            is_default: default.as_deref() == Some(&*interface.name),
            addresses: host_network::reachable(interface.addresses),
            name: interface.name,
        });
    let with_ipv4 = |candidate: &Candidate| {
        let mut addresses = candidate.addresses.iter();
        addresses.any(|net| net.addr().is_ipv4())
    };
    Ok(candidates.filter(with_ipv4).collect())
}

/// Checks that an interface exists. The error names the existing ones.
pub(super) fn check_exists(name: &str) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        Netlink::connect()?.interface(name).await?;
        Ok(())
    })
}

/// Whether the network of this interface is inside this host: a bridge without a network card among
/// its ports, as Docker, libvirt and LXC create them.
fn is_inside(name: &str) -> bool {
    let Ok(ports) = fs::read_dir(Path::new("/sys/class/net").join(name).join("brif")) else {
        return false;
    };
    let is_card = |port: &str| {
        Path::new("/sys/class/net")
            .join(port)
            .join("device")
            .exists()
    };
    let mut ports = ports.filter_map(|port| port.ok()?.file_name().into_string().ok());
    !ports.any(|port| is_card(&port) || is_vlan_or_bond(&port))
}

/// Whether an interface is a VLAN of a card or a bond of cards.
fn is_vlan_or_bond(name: &str) -> bool {
    let folder = Path::new("/sys/class/net").join(name);
    folder.join("bonding").exists() || Path::new("/proc/net/vlan").join(name).exists()
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
