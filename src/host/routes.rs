//! Routes to clients' own networks: the kernel answers clients that use services of this machine, and
//! the LAN reaches those without translation (`nat.no_nat`). They vanish with the TUN device.

use super::{HostError, Netlink};
use ipnet::IpNet;

/// The routes over the TUN device.
#[derive(Debug)]
pub struct Routes {
    netlink: Netlink,
    tun: u32,
    /// Whether the TUN device has IPv6.
    ipv6: bool,
    present: Vec<IpNet>,
}

impl Routes {
    /// Begins without routes on the device with the index `tun`.
    pub(super) fn new(netlink: Netlink, tun: u32, ipv6: bool) -> Self {
        Self {
            netlink,
            tun,
            ipv6,
            present: Vec::new(),
        }
    }

    /// Routes that exist.
    pub(super) fn present(&self) -> &[IpNet] {
        &self.present
    }

    /// Adds and removes routes until they are exactly `wanted`. Routes that stay are not interrupted.
    ///
    /// # Errors
    /// Continues after a failure and returns it at the end.
    pub async fn set(&mut self, wanted: &[IpNet]) -> Result<(), HostError> {
        let wanted = self.possible(wanted);
        let mut result = Ok(());
        for net in &wanted {
            if self.present.contains(net) {
                continue;
            }
            match self.netlink.add_route(*net, self.tun).await {
                Ok(()) => self.present.push(*net),
                Err(error) => result = Err(error),
            }
        }
        let gone = |net: &IpNet| !wanted.contains(net);
        for net in self.present.extract_if(.., |net| gone(net)) {
            let removed = self.netlink.remove_route(net, self.tun).await;
            result = result.and(removed);
        }
        result
    }

    fn possible(&self, nets: &[IpNet]) -> Vec<IpNet> {
        let possible = |net: &&IpNet| self.ipv6 || net.addr().is_ipv4();
        nets.iter().filter(possible).copied().collect()
    }
}
