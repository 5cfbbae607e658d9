//! Waits for the kernel's notifications about changes of this machine's network. Their content is not
//! interpreted: notifications can be lost, so the receiver compares the whole state.

use super::HostError;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use std::future::pending;
use std::io;

/// linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES.
const TABLES: u32 = 7;
/// Interfaces, their addresses, and settings such as forwarding.
const NETWORK: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];
/// Routes. Most of them usually concern other programs.
const ROUTES: [MulticastGroup; 2] = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
/// Size of the receive buffer in bytes; the kernel sends at most 8 KB at once (NLMSG_GOODSIZE).
const MESSAGE_CAPACITY: usize = 16 << 10;

/// Sockets that receive the notifications.
pub struct NetlinkMonitor {
    network: TokioSocket,
    /// With the index of the interface whose routes are watched.
    routes: (TokioSocket, u32),
    /// With the name of the nftables table that is watched.
    tables: Option<(TokioSocket, String)>,
}

impl NetlinkMonitor {
    /// Subscribes to changes of interfaces, of routes over `tun`, and of `table`, which a kernel without
    /// nftables does not have unless it `is_needed`. Needs a tokio runtime.
    pub(super) fn open(tun: u32, table: &str, is_needed: bool) -> Result<Self, HostError> {
        let opened = || {
            let network = listen(NETLINK_ROUTE, &NETWORK.map(|group| group as u32))?;
            let tables = match listen(NETLINK_NETFILTER, &[TABLES]) {
                Ok(socket) => Some((socket, table.to_owned())),
                Err(error) if is_needed => return Err(error),
                Err(_) => None,
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
    ///
    /// # Errors
    /// Fails if a socket fails.
    pub async fn next(&self) -> io::Result<()> {
        let tables = async {
            match &self.tables {
                Some((socket, name)) => wait_for_table(socket, name).await,
                None => pending().await,
            }
        };
        tokio::select! {
            message = receive(&self.network) => message.map(drop),
            message = wait_for_route(&self.routes.0, self.routes.1) => message,
            named = tables => named,
        }
    }
}

/// Waits until a route over the interface or a default route has changed. The default route decides
/// by which interface clients' packets leave.
async fn wait_for_route(socket: &TokioSocket, interface: u32) -> io::Result<()> {
    while !receive(socket)
        .await?
        .is_none_or(|message| is_routed(&message, interface))
    {}
    Ok(())
}

fn is_routed(message: &[u8], interface: u32) -> bool {
    // linux/rtnetlink.h: struct nlmsghdr is 16 bytes, then struct rtmsg with family and length of
    // the destination; RTA_OIF is an attribute of 8 bytes.
    const DESTINATION_LENGTH: usize = 16 + 1;
    let mut oif = [0; 8];
    let (head, index) = oif.split_at_mut(4);
    head.copy_from_slice(&[8u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
    index.copy_from_slice(&interface.to_ne_bytes());
    let is_default = message.get(DESTINATION_LENGTH) == Some(&0);
    is_default || message.windows(oif.len()).any(|part| part == oif)
}

/// Waits until a message contains the name of the table, so that busy tables of other programs cost
/// little. A longer name that contains it causes one superfluous comparison.
async fn wait_for_table(socket: &TokioSocket, table: &str) -> io::Result<()> {
    let table = table.as_bytes();
    let is_named = |message: Vec<u8>| message.windows(table.len()).any(|part| part == table);
    while !receive(socket).await?.is_none_or(is_named) {}
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

/// Receives the next message. `None` means that messages were lost because the queue was full.
async fn receive(socket: &TokioSocket) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(MESSAGE_CAPACITY);
    match socket.recv(&mut buffer).await {
        Ok(()) => Ok(Some(buffer)),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
        Err(e) => Err(e),
    }
}
