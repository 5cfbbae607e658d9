//! Forwards ports of the machine's own LAN address to the transit address, by DNAT rules in an
//! nftables table of vcgate's own. It changes no other table.

use super::HostError;
use super::listening::listens;
use super::nft::{self, Table};
use crate::config::{Forward, Port, Transport};
use std::net::IpAddr;

/// DNAT rules from the machine's ports to the transit address of one family.
#[derive(Debug, Clone)]
pub struct DnatRules {
    table: Table,
    transit: IpAddr,
    lan: String,
    tun: String,
    /// The gateway's own addresses in the tunnel.
    tunnel: Vec<IpAddr>,
}

impl DnatRules {
    /// Describes the rules in `table`, which belongs to this endpoint.
    pub(super) fn new(
        table: Table,
        transit: IpAddr,
        lan: String,
        tun: String,
        tunnel: Vec<IpAddr>,
    ) -> Self {
        Self {
            table,
            transit,
            lan,
            tun,
            tunnel,
        }
    }

    /// Table that contains the rules.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Replaces the table, in one transaction, by one with rules for all `forwards` of this family.
    ///
    /// # Errors
    /// Fails if `nft` is missing or rejects the rules.
    pub(super) async fn replace_table(&self, forwards: &[Forward]) -> Result<(), HostError> {
        let forwards = forwards.iter().filter(|forward| self.leads_to(forward));
        let open = forwards.map(|forward| self.forward_script(forward.port()));
        let masquerade = nft::masquerade_script(&self.table, &[self.transit], &[&self.tun]);
        let script = [masquerade].into_iter().chain(open).collect::<String>();
        nft::run(&script).await
    }

    /// Transit address that the rules lead to.
    pub(super) fn transit(&self) -> IpAddr {
        self.transit
    }

    /// Whether a forward is of the machine's own address of the family of these rules.
    pub fn leads_to(&self, forward: &Forward) -> bool {
        self.transit.is_ipv4() == forward.to.is_ipv4() && forward.lan_address.is_none()
    }

    /// Adds a port. It may be forwarded already.
    ///
    /// # Errors
    /// Fails if `nft` rejects the rule.
    pub async fn forward(&self, port: Port) -> Result<(), HostError> {
        nft::run(&self.forward_script(port)).await
    }

    /// Adds a port on which no program of this machine listens, such as SSH.
    ///
    /// # Errors
    /// Fails if a program listens on it, or if `nft` rejects the rule.
    pub async fn forward_free_port(&self, port: Port) -> Result<(), HostError> {
        match listens(port, &self.tunnel) {
            true => Err(HostError::OwnPort(port)),
            false => self.forward(port).await,
        }
    }

    /// Removes a port. Established connections continue.
    ///
    /// # Errors
    /// Fails if the port is not forwarded.
    pub async fn stop_forwarding(&self, Port { proto, number }: Port) -> Result<(), HostError> {
        let Self { table, .. } = self;
        nft::run(&format!(
            "delete element {table} {proto}_ports {{ {number} }}\n"
        ))
        .await
    }

    /// The chain is created for the first port, so that a machine without forwards does not have it.
    fn forward_script(&self, Port { proto, number }: Port) -> String {
        let Self {
            table,
            transit,
            lan,
            ..
        } = self;
        let set = |proto| format!("add set {table} {proto}_ports {{ type inet_service; }}\n");
        let rule = |proto| {
            format!(
                "add rule {table} prerouting iifname \"{lan}\" fib daddr type local \
                 {proto} dport @{proto}_ports dnat to {transit}\n"
            )
        };
        [
            set(Transport::Tcp),
            set(Transport::Udp),
            format!(
                "add chain {table} prerouting \
                 {{ type nat hook prerouting priority dstnat; policy accept; }}\n\
                 flush chain {table} prerouting\n"
            ),
            rule(Transport::Tcp),
            rule(Transport::Udp),
            format!("add element {table} {proto}_ports {{ {number} }}\n"),
        ]
        .concat()
    }
}
