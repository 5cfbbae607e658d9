//! Requests to the kernel's network configuration. It keeps no state and decides nothing.

use super::HostError;
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use smoltcp::wire::EthernetAddress;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vcgate_wire::ip;

/// A netlink connection, closed when the value is dropped.
#[derive(Debug, Clone)]
pub struct Netlink(Handle);

/// An interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Station address, if it uses ARP over Ethernet.
    pub ethernet: Option<EthernetAddress>,
    /// Addresses with the prefix lengths of their networks.
    pub addresses: Vec<IpNet>,
}

impl Interface {
    /// Networks that are directly connected, sorted.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        let shared = self.addresses.iter().filter(|net| is_shared(net));
        let mut networks: Vec<_> = shared.map(IpNet::trunc).collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }
}

/// Whether this is an address in a network that other hosts share.
pub(super) fn is_shared(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => true,
        IpNet::V6(net) => net.prefix_len() < 128 && !net.addr().is_unicast_link_local(),
    }
}

impl Netlink {
    /// Connects. Needs a tokio runtime.
    ///
    /// # Errors
    /// Fails if the kernel grants no netlink socket.
    pub fn connect() -> Result<Self, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|e| HostError::refused("open a netlink socket", e))?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// All interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, HostError> {
        let what = "list the interfaces";
        let links = self.0.link().get().execute();
        let links: Vec<_> = links.try_collect().await.map_err(refused(what))?;
        let addresses = self.0.address().get().execute();
        let addresses: Vec<_> = addresses.try_collect().await.map_err(refused(what))?;
        let mut interfaces: Vec<_> = links.into_iter().filter_map(interface).collect();
        for interface in &mut interfaces {
            let own = addresses
                .iter()
                .filter(|a| a.header.index == interface.index);
            interface.addresses = own.filter_map(ip_address).collect();
        }
        Ok(interfaces)
    }

    /// The interface `name`.
    pub async fn interface(&self, name: &str) -> Result<Interface, HostError> {
        let all = self.interfaces().await?;
        let found = all.iter().find(|i| i.name == name).cloned();
        found.ok_or_else(|| HostError::UnknownInterface {
            name: name.into(),
            existing: names(&all),
        })
    }

    /// The interface of the IPv4 default route with the lowest metric.
    pub async fn default_interface(&self) -> Result<Interface, HostError> {
        let routes = self.routes(Ipv4Addr::UNSPECIFIED.into()).await?;
        let mut defaults: Vec<_> = routes
            .iter()
            .filter(|r| r.header.destination_prefix_length == 0)
            .filter(|r| r.header.table == RouteHeader::RT_TABLE_MAIN)
            .filter_map(|route| Some((metric(route), output(route)?)))
            .collect();
        defaults.sort_unstable();
        let all = self.interfaces().await?;
        let first = defaults
            .first()
            .and_then(|(_, index)| all.iter().find(|i| i.index == *index));
        first
            .cloned()
            .ok_or_else(|| HostError::NoDefaultRoute(names(&all)))
    }

    /// Routes of the main table, each with the index of its output interface. Of several routes to one
    /// destination, the preferred one is first.
    pub async fn main_routes(&self) -> Result<Vec<(IpNet, u32)>, HostError> {
        let mut routes = self.routes(Ipv4Addr::UNSPECIFIED.into()).await?;
        routes.extend(self.routes(Ipv6Addr::UNSPECIFIED.into()).await?);
        routes.retain(|route| route.header.table == RouteHeader::RT_TABLE_MAIN);
        routes.sort_by_key(metric);
        let to = |route: &RouteMessage| Some((destination(route)?, output(route)?));
        Ok(routes.iter().filter_map(to).collect())
    }

    /// Destinations of all routes in all tables, except default routes.
    pub async fn destinations(&self) -> Result<Vec<IpNet>, HostError> {
        let mut routes = self.routes(Ipv4Addr::UNSPECIFIED.into()).await?;
        routes.extend(self.routes(Ipv6Addr::UNSPECIFIED.into()).await?);
        routes.retain(|route| route.header.destination_prefix_length > 0);
        Ok(routes.iter().filter_map(destination).collect())
    }

    /// Addresses of several hosts that the kernel delivers to sockets of this machine: directed
    /// broadcasts, and the anycast addresses of an IPv6 router.
    pub async fn broadcasts(&self) -> Result<Vec<IpAddr>, HostError> {
        let mut routes = self.all_routes(Ipv4Addr::UNSPECIFIED.into()).await?;
        routes.extend(self.all_routes(Ipv6Addr::UNSPECIFIED.into()).await?);
        let is_broadcast =
            |r: &&RouteMessage| matches!(r.header.kind, RouteType::Broadcast | RouteType::Anycast);
        let addresses = routes.iter().filter(is_broadcast).filter_map(destination);
        // All others are never forwarded.
        let mut addresses: Vec<_> = { addresses.map(|net| net.addr()) }
            .filter(|address| ip::is_forwardable(*address))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    /// Switches an interface on.
    pub async fn switch_on(&self, index: u32, mtu: u32, queue: u32) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .txqueuelen(queue)
            .up();
        let set = self.0.link().set(link.build()).execute().await;
        set.map_err(refused("switch on the TUN interface"))
    }

    /// Adds an address with a host prefix to an interface.
    pub async fn add_address(&self, address: IpAddr, index: u32) -> Result<(), HostError> {
        let length = IpNet::from(address).prefix_len();
        let add = self.0.address().add(index, address, length);
        let added = add.execute().await;
        added.map_err(refused(&format!("give the TUN interface {address}")))
    }

    /// Adds an address to an interface if it is missing, and returns whether it was.
    pub async fn restore_address(&self, address: IpAddr, index: u32) -> Result<bool, HostError> {
        let length = IpNet::from(address).prefix_len();
        let added = self.0.address().add(index, address, length).execute();
        let what = format!("give the TUN interface {address}");
        was_missing(added.await, what)
    }

    /// Routes a network over an interface.
    pub async fn add_route(&self, net: IpNet, index: u32) -> Result<(), HostError> {
        let added = self.0.route().add(route(net, index)).execute().await;
        added.map_err(refused(&format!("add a route to {net}")))
    }

    /// Routes a network over an interface if the route is missing, and returns whether it was.
    pub async fn restore_route(&self, net: IpNet, index: u32) -> Result<bool, HostError> {
        let added = self.0.route().add(route(net, index)).execute().await;
        was_missing(added, format!("add a route to {net}"))
    }

    /// Removes the route to a network over an interface.
    pub async fn remove_route(&self, net: IpNet, index: u32) -> Result<(), HostError> {
        let removed = self.0.route().del(route(net, index)).execute().await;
        removed.map_err(refused(&format!("remove the route to {net}")))
    }

    /// Whether an interface has a proxy neighbour entry for an address.
    pub async fn has_proxy(&self, address: IpAddr, index: u32) -> Result<bool, HostError> {
        let (family, neighbour) = match address {
            IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
        };
        let entries = self
            .0
            .neighbours()
            .get()
            .proxies()
            .set_address_family(family);
        let entries = entries.execute().try_collect::<Vec<_>>().await;
        let entries = entries.map_err(refused("list the proxy neighbours"))?;
        let destination = NeighbourAttribute::Destination(neighbour);
        let mut there = entries.iter().filter(|e| e.header.ifindex == index);
        Ok(there.any(|e| e.attributes.contains(&destination)))
    }

    /// Adds a proxy neighbour entry: the interface answers ARP or neighbour discovery for the address.
    pub async fn add_proxy(&self, address: IpAddr, index: u32) -> Result<(), HostError> {
        let add = self
            .0
            .neighbours()
            .add(index, address)
            .flags(NeighbourFlags::Proxy);
        add.execute().await.map_err(refused(&format!(
            "add a proxy neighbour entry for {address}"
        )))
    }

    /// Removes a proxy neighbour entry. A missing entry is not an error.
    pub async fn remove_proxy(&self, address: IpAddr, index: u32) -> Result<(), HostError> {
        let mut like = self
            .0
            .neighbours()
            .add(index, address)
            .flags(NeighbourFlags::Proxy);
        let entry = like.message_mut().clone();
        match self
            .0
            .neighbours()
            .del(entry)
            .execute()
            .await
            .map_err(into_io)
        {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(HostError::refused(
                format!("remove the proxy neighbour entry for {address}"),
                e,
            )),
            _ => Ok(()),
        }
    }

    /// The unicast routes of one family.
    async fn routes(&self, family: IpAddr) -> Result<Vec<RouteMessage>, HostError> {
        let mut routes = self.all_routes(family).await?;
        routes.retain(|route| route.header.kind == RouteType::Unicast);
        Ok(routes)
    }

    /// The routes of one family in all tables.
    async fn all_routes(&self, family: IpAddr) -> Result<Vec<RouteMessage>, HostError> {
        let mut every = match family {
            IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        every.header.table = RouteHeader::RT_TABLE_UNSPEC;
        let routes = self.0.route().get(every).execute();
        routes
            .try_collect()
            .await
            .map_err(refused("list the routes"))
    }
}

fn route(net: IpNet, index: u32) -> RouteMessage {
    match net {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .build(),
    }
}

fn interface(link: LinkMessage) -> Option<Interface> {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let station = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok(),
        _ => None,
    });
    let flags = link.header.flags;
    let speaks_arp = link.header.link_layer_type == LinkLayerType::Ether
        && !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback);
    Some(Interface {
        index: link.header.index,
        name,
        up: flags.contains(LinkFlags::Up),
        mtu: link.attributes.iter().find_map(mtu).unwrap_or(0),
        ethernet: station.filter(|_| speaks_arp).map(EthernetAddress),
        addresses: Vec::new(),
    })
}

fn mtu(attribute: &LinkAttribute) -> Option<u32> {
    match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn ip_address(message: &AddressMessage) -> Option<IpNet> {
    // IFA_LOCAL is this end of a point-to-point link for both families; IPv6 has it only there.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip @ IpAddr::V6(_)) => Some(*ip),
            _ => None,
        })
    };
    IpNet::new(local.or_else(address)?, message.header.prefix_len).ok()
}

/// The destination of a route; a default route has no attribute for it.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let named = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        });
    let any = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let length = route.header.destination_prefix_length;
    let ip = named.or((length == 0).then_some(any))?;
    IpNet::new(ip, length).ok()
}

fn names(interfaces: &[Interface]) -> Vec<String> {
    interfaces.iter().map(|i| i.name.clone()).collect()
}

fn metric(route: &RouteMessage) -> u32 {
    let metric = |a: &RouteAttribute| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    };
    route.attributes.iter().find_map(metric).unwrap_or(0)
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

/// Whether an addition was necessary: EEXIST means that it was not.
fn was_missing(added: Result<(), rtnetlink::Error>, what: String) -> Result<bool, HostError> {
    match added.map_err(into_io) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(HostError::refused(what, e)),
    }
}

fn refused(what: &str) -> impl FnOnce(rtnetlink::Error) -> HostError {
    move |error| HostError::refused(what, into_io(error))
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
