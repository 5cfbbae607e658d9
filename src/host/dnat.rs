//! Forwarded ports where clients share the machine's own LAN address: the kernel hands what comes
//! to them on to the transit address, in our own nftables table.

use super::HostError;
use super::listening::listens;
use super::nft::{self, Table};
use crate::config::{Forward, Port, Transport};
use std::net::IpAddr;

/// The machine's ports that lead to the clients' transit address of one family.
#[derive(Debug, Clone)]
pub struct DnatRules {
    table: Table,
    transit: IpAddr,
    lan: String,
    tun: String,
}

impl DnatRules {
    /// `table` goes with the endpoint.
    pub(super) fn new(table: Table, transit: IpAddr, lan: String, tun: String) -> Self {
        Self {
            table,
            transit,
            lan,
            tun,
        }
    }

    /// The table that they are in.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Makes the table with a door for each of these forwards that leads here, and replaces what
    /// is there of it, all at once.
    pub(super) async fn make(&self, forwards: &[Forward]) -> Result<(), HostError> {
        let forwards = forwards.iter().filter(|forward| self.leads_to(forward));
        let open = forwards.map(|forward| self.open_script(forward.port()));
        let masquerade = nft::masquerade_script(&self.table, self.transit, &[&self.tun]);
        let script = [masquerade].into_iter().chain(open).collect::<String>();
        nft::run(&script).await
    }

    /// Where they lead.
    pub(super) fn transit(&self) -> IpAddr {
        self.transit
    }

    /// Whether a forward comes by these: its client is of their family.
    pub fn leads_to(&self, forward: &Forward) -> bool {
        self.transit.is_ipv4() == forward.to.is_ipv4()
    }

    /// Hands a port on from now on. It is no error if it was before.
    pub async fn open(&self, port: Port) -> Result<(), HostError> {
        nft::run(&self.open_script(port)).await
    }

    /// The same, unless the port would be taken from a program of this machine, as SSH's.
    pub async fn open_free(&self, port: Port) -> Result<(), HostError> {
        match listens(port) {
            true => Err(HostError::OwnPort(port)),
            false => self.open(port).await,
        }
    }

    /// Hands a port on no longer; connections that came by it may go on.
    pub async fn close(&self, Port { proto, number }: Port) -> Result<(), HostError> {
        let Self { table, .. } = self;
        nft::run(&format!(
            "delete element {table} {proto}_ports {{ {number} }}\n"
        ))
        .await
    }

    /// The chain is made when the first port needs it: machines without forwards do without it.
    fn open_script(&self, Port { proto, number }: Port) -> String {
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
