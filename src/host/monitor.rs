//! The kernel's word that something about this machine's network has changed. What it was is not
//! read from it: words get lost, and who hears of one looks for himself.

use super::HostError;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use std::future::pending;
use std::io;

/// linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES.
const TABLES: u32 = 7;
/// Interfaces, their addresses, and their settings, as forwarding.
const NETWORK: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];
/// Routes, of which there can be many that are others' matter.
const ROUTES: [MulticastGroup; 2] = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
/// The kernel sends at most 8 KB at once (NLMSG_GOODSIZE).
const ROOM: usize = 16 << 10;

/// Hears of changes from now on.
pub struct NetlinkMonitor {
    network: TokioSocket,
    /// With the number of the interface whose routes matter.
    routes: (TokioSocket, u32),
    /// With the name of the nftables table that matters.
    tables: Option<(TokioSocket, String)>,
}

impl NetlinkMonitor {
    /// Listens, to changes of the routes over an interface too, and of nftables if a table is named.
    /// Needs a tokio runtime.
    pub(super) fn open(tun: u32, table: Option<&str>) -> Result<Self, HostError> {
        let opened = || {
            let network = listen(NETLINK_ROUTE, &NETWORK.map(|group| group as u32))?;
            let tables = match table {
                Some(name) => Some((listen(NETLINK_NETFILTER, &[TABLES])?, name.to_owned())),
                None => None,
            };
            let routes = (
                listen(NETLINK_ROUTE, &ROUTES.map(|group| group as u32))?,
                tun,
            );
            Ok(Self {
                network,
                routes,
                tables,
            })
        };
        opened().map_err(|e| HostError::refused("listen to changes of this machine's network", e))
    }

    /// Waits for the next change.
    pub async fn next(&self) -> io::Result<()> {
        let tables = async {
            match &self.tables {
                Some((socket, name)) => until_named(socket, name).await,
                None => pending().await,
            }
        };
        tokio::select! {
            said = heard(&self.network) => said.map(drop),
            said = until_routed(&self.routes.0, self.routes.1) => said,
            named = tables => named,
        }
    }
}

/// Waits until a route over the interface has changed, or a default route, which decides where
/// clients' packets leave.
async fn until_routed(socket: &TokioSocket, interface: u32) -> io::Result<()> {
    while !heard(socket)
        .await?
        .is_none_or(|said| is_routed(&said, interface))
    {}
    Ok(())
}

fn is_routed(said: &[u8], interface: u32) -> bool {
    // linux/rtnetlink.h: struct nlmsghdr is 16 bytes, then struct rtmsg with family and length of
    // the destination; RTA_OIF is an attribute of 8 bytes.
    const DESTINATION_LENGTH: usize = 16 + 1;
    let mut oif = [0; 8];
    let (head, index) = oif.split_at_mut(4);
    head.copy_from_slice(&[8u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
    index.copy_from_slice(&interface.to_ne_bytes());
    let is_default = said.get(DESTINATION_LENGTH) == Some(&0);
    is_default || said.windows(oif.len()).any(|part| part == oif)
}

/// Waits until the table is named, so that others' busy tables cost us next to nothing; a longer
/// name that contains it costs a look.
async fn until_named(socket: &TokioSocket, table: &str) -> io::Result<()> {
    let table = table.as_bytes();
    let is_named = |said: Vec<u8>| said.windows(table.len()).any(|part| part == table);
    while !heard(socket).await?.is_none_or(is_named) {}
    Ok(())
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_ref().add_membership(*group)?;
    }
    Ok(socket)
}

/// What the kernel says next; nothing, if some of it was lost because we were slow.
async fn heard(socket: &TokioSocket) -> io::Result<Option<Vec<u8>>> {
    let mut room = Vec::with_capacity(ROOM);
    match socket.recv(&mut room).await {
        Ok(()) => Ok(Some(room)),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
        Err(e) => Err(e),
    }
}
