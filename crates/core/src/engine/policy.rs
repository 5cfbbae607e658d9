//! The rules of each client: the destinations that it may reach. They are applied once for each
//! super-packet, before translation, to the peer that the tunnel authenticated.
//!
//! A rule names a remote endpoint: its network, its protocol, its port. For translated flows the
//! rules apply to the client's own packets, and only flows that these opened have answers. Without
//! translation there are no flows, and the rules apply in both directions: a packet *from* a remote
//! endpoint passes if the client may send *to* it.

use super::remote_endpoint::{RemoteEndpoint, is_opening};
use crate::ids::PeerId;
use crate::netmap::NetMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use vcgate_wire::packet::Packet;

/// A set of endpoints that a client may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The hosts.
    pub destination: Destination,
    /// The protocol; `None` is any.
    pub protocol: Option<IpProtocol>,
    /// The destination ports; `None` is any.
    pub ports: Option<RangeInclusive<u16>>,
}

/// The hosts of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Every host.
    Anywhere,
    /// The hosts of a network.
    Net(IpNet),
    /// The addresses of clients, if `client_to_client` is set.
    Clients,
    /// The gateway's own tunnel addresses, where the host's services answer. No other rule includes
    /// them.
    Gateway,
}

impl Rule {
    /// Makes a rule for all protocols and ports of a network.
    pub fn network(net: IpNet) -> Self {
        Self::all(Destination::Net(net))
    }

    /// Makes a rule for all protocols and ports of these hosts.
    pub fn all(destination: Destination) -> Self {
        Self {
            destination,
            protocol: None,
            ports: None,
        }
    }

    fn allows(&self, remote: &RemoteEndpoint) -> bool {
        let is_destination = match self.destination {
            Destination::Anywhere => true,
            Destination::Net(net) => net.contains(&remote.address),
            Destination::Clients => remote.is_client,
            Destination::Gateway => false,
        };
        is_destination && self.allows_service(remote)
    }

    fn allows_service(&self, remote: &RemoteEndpoint) -> bool {
        self.protocol.is_none_or(|p| p == remote.protocol)
            && match (&self.ports, remote.port) {
                (None, _) => true,
                (Some(ports), Some(port)) => ports.contains(&port),
                (Some(_), None) => false,
            }
    }
}

/// The rules for all clients.
#[derive(Debug, Clone, Default)]
pub struct GlobalPolicy {
    /// Whether clients may reach one another, within each one's own rules.
    pub client_to_client: bool,
    /// The reaction to packets that a rule denies.
    pub on_deny: OnDeny,
    /// Destinations without translation, to which packets keep their source (RFC 6888 REQ-6).
    pub no_nat: Vec<IpNet>,
    /// Addresses of several hosts, which the gateway's kernel delivers to its own sockets too:
    /// directed broadcasts (RFC 2644) and IPv6 anycast addresses. No client may reach them.
    pub broadcasts: Vec<IpAddr>,
    /// The prefixes of the LAN that clients know under others. All other rules name the LAN's own
    /// addresses.
    pub netmap: NetMap,
}

/// The reaction to a client's packet that a rule denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeny {
    /// Answer with the ICMP error "administratively prohibited" (RFC 1812 section 5.2.7.1).
    #[default]
    Reject,
    /// Do not answer.
    Drop,
}

/// The rules of all peers.
#[derive(Debug)]
pub(super) struct Policy {
    pub global: GlobalPolicy,
    /// By peer id.
    rules: Vec<Vec<Rule>>,
}

impl Policy {
    pub(super) fn new(global: GlobalPolicy) -> Self {
        Self {
            global,
            rules: Vec::new(),
        }
    }

    /// Replaces a peer's rules; without any, the peer reaches nothing.
    pub(super) fn set(&mut self, peer: PeerId, rules: Vec<Rule>) {
        let at = peer.0 as usize;
        if self.rules.len() <= at {
            self.rules.resize_with(at + 1, Vec::new);
        }
        self.rules[at] = rules;
    }

    /// Whether packets to this address are not translated.
    pub(super) fn keeps_source(&self, address: IpAddr) -> bool {
        let nets = &self.global.no_nat;
        nets.iter().any(|net| net.contains(&address))
    }

    /// Whether this address belongs to several hosts, among them the gateway.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        self.global.broadcasts.contains(&address)
    }

    /// Whether the peer may reach this remote endpoint.
    pub(super) fn allows(&self, peer: PeerId, remote: &RemoteEndpoint) -> bool {
        let rules = self.rules.get(peer.0 as usize);
        rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(remote)))
    }

    /// Whether the peer may reach a service of the gateway: `remote` is one of its addresses. `None`
    /// is any service, for a later fragment of a datagram.
    pub(super) fn allows_gateway(&self, peer: PeerId, remote: Option<&RemoteEndpoint>) -> bool {
        let rules = self.rules.get(peer.0 as usize).into_iter().flatten();
        let mut of_gateway = rules.filter(|rule| rule.destination == Destination::Gateway);
        of_gateway.any(|rule| remote.is_none_or(|remote| rule.allows_service(remote)))
    }

    /// Whether one client's packet may go to another: the sender's rules name the receiver's end, or
    /// the receiver's rules name the sender's and the packet may be an answer. A packet that opens a
    /// TCP connection or requests an echo is not an answer.
    pub(super) fn permits_peer_to_peer(
        &self,
        from: PeerId,
        to: PeerId,
        packet: &Packet<'_>,
    ) -> bool {
        let may_reach = |peer, remote: Option<RemoteEndpoint>| {
            remote.is_some_and(|remote| {
                let remote = RemoteEndpoint {
                    is_client: true,
                    ..remote
                };
                self.allows(peer, &remote)
            })
        };
        self.global.client_to_client
            && (may_reach(from, RemoteEndpoint::of_destination(packet))
                || (!is_opening(packet) && may_reach(to, RemoteEndpoint::of_source(packet))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: [u8; 4], protocol: IpProtocol, port: Option<u16>) -> RemoteEndpoint {
        RemoteEndpoint {
            address: address.into(),
            is_client: false,
            protocol,
            port,
        }
    }

    #[test]
    fn a_peer_reaches_what_its_rules_allow_and_nothing_else() {
        use IpProtocol::{Icmp, Tcp, Udp};
        let mut policy = Policy::new(GlobalPolicy::default());
        let (alice, bob) = (PeerId(3), PeerId(1));
        policy.set(
            alice,
            vec![Rule {
                destination: Destination::Net("192.168.77.10/32".parse().unwrap()),
                protocol: Some(Tcp),
                ports: Some(445..=445),
            }],
        );
        let server = [192, 168, 77, 10];
        assert!(policy.allows(alice, &endpoint(server, Tcp, Some(445))));
        assert!(!policy.allows(alice, &endpoint(server, Tcp, Some(446))));
        assert!(!policy.allows(alice, &endpoint(server, Udp, Some(445))));
        assert!(!policy.allows(alice, &endpoint(server, Tcp, None)));
        assert!(!policy.allows(alice, &endpoint([192, 168, 77, 11], Tcp, Some(445))));
        assert!(!policy.allows(bob, &endpoint(server, Tcp, Some(445))));
        policy.set(bob, vec![Rule::network("192.168.77.0/24".parse().unwrap())]);
        assert!(policy.allows(bob, &endpoint(server, Icmp, None)));
        assert!(!policy.allows(bob, &endpoint([8, 8, 8, 8], Icmp, None)));
    }

    #[test]
    fn a_rule_for_clients_allows_clients_only() {
        let rule = Rule::all(Destination::Clients);
        let neighbour = endpoint([10, 8, 0, 12], IpProtocol::Udp, Some(1));
        assert!(!rule.allows(&neighbour));
        assert!(rule.allows(&RemoteEndpoint {
            is_client: true,
            ..neighbour
        }));
    }

    #[test]
    fn only_a_rule_for_the_gateway_allows_its_services() {
        use IpProtocol::{Tcp, Udp};
        let mut policy = Policy::new(GlobalPolicy::default());
        let peer = PeerId(0);
        let service = |protocol, port| endpoint([10, 8, 0, 1], protocol, Some(port));
        policy.set(peer, vec![Rule::all(Destination::Anywhere)]);
        assert!(!policy.allows_gateway(peer, Some(&service(Tcp, 22))));
        assert!(!policy.allows_gateway(peer, None));
        let ssh = Rule {
            destination: Destination::Gateway,
            protocol: Some(Tcp),
            ports: Some(22..=22),
        };
        policy.set(peer, vec![ssh]);
        assert!(policy.allows_gateway(peer, Some(&service(Tcp, 22))));
        assert!(!policy.allows_gateway(peer, Some(&service(Tcp, 23))));
        assert!(!policy.allows_gateway(peer, Some(&service(Udp, 22))));
        assert!(policy.allows_gateway(peer, None), "a later fragment");
        assert!(!policy.allows(peer, &service(Tcp, 22)), "not by the LAN");
    }

    #[test]
    fn rfc6888_req6_translation_is_off_for_chosen_destinations() {
        let policy = Policy::new(GlobalPolicy {
            no_nat: vec!["10.1.0.0/16".parse().unwrap()],
            ..GlobalPolicy::default()
        });
        assert!(policy.keeps_source([10, 1, 255, 1].into()));
        assert!(!policy.keeps_source([10, 2, 0, 1].into()));
    }
}
