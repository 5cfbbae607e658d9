//! What each client may reach. Asked once for each super-packet, before translation, and by what
//! the tunnel authenticated, not by what the client claims.
//!
//! A rule names a far end: where it is, its protocol, its port. For translated flows it is asked
//! about the client's own packets, and only flows that they opened have answers. Where nothing is
//! translated there are no flows, and a rule is asked in both directions: what comes *from* a far
//! end passes if the client may send *to* it.

use super::remote_endpoint::{RemoteEndpoint, is_opening};
use crate::ids::PeerId;
use ipnet::IpNet;
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use vcgate_wire::packet::Packet;

/// One thing that a client may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it is.
    pub place: Destination,
    /// The protocol; `None` is any.
    pub protocol: Option<IpProtocol>,
    /// The destination ports; `None` is any.
    pub ports: Option<RangeInclusive<u16>>,
}

/// Where a rule leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Anywhere.
    Anywhere,
    /// To a network.
    Net(IpNet),
    /// To whatever belongs to a client, if `client_to_client` is set.
    Clients,
}

impl Rule {
    /// Everything in a network.
    pub fn network(net: IpNet) -> Self {
        Self::all(Destination::Net(net))
    }

    /// Everything there.
    pub fn all(place: Destination) -> Self {
        Self {
            place,
            protocol: None,
            ports: None,
        }
    }

    fn allows(&self, far: &RemoteEndpoint) -> bool {
        let place = match self.place {
            Destination::Anywhere => true,
            Destination::Net(net) => net.contains(&far.address),
            Destination::Clients => far.is_client,
        };
        place
            && self.protocol.is_none_or(|p| p == far.protocol)
            && match (&self.ports, far.port) {
                (None, _) => true,
                (Some(ports), Some(port)) => ports.contains(&port),
                (Some(_), None) => false,
            }
    }
}

/// What holds for all clients.
#[derive(Debug, Clone, Default)]
pub struct GlobalPolicy {
    /// Whether clients reach one another, each as far as its rules go.
    pub client_to_client: bool,
    /// The reaction to packets that a rule denies.
    pub on_deny: OnDeny,
    /// Destinations to which sources are kept (RFC 6888 REQ-6).
    pub no_nat: Vec<IpNet>,
    /// Addresses of several hosts that the gateway's kernel delivers to its own sockets, too:
    /// directed broadcasts (RFC 2644) and IPv6 anycast addresses. No client reaches them.
    pub broadcasts: Vec<IpAddr>,
}

/// The reaction to a client's packet that a rule denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeny {
    /// ICMP: administratively prohibited (RFC 1812 section 5.2.7.1).
    #[default]
    Reject,
    /// No answer.
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

    /// Replaces a peer's rules; without any, it reaches nothing.
    pub(super) fn set(&mut self, peer: PeerId, rules: Vec<Rule>) {
        let at = peer.0 as usize;
        if self.rules.len() <= at {
            self.rules.resize_with(at + 1, Vec::new);
        }
        self.rules[at] = rules;
    }

    /// Whether translation is off for this address.
    pub(super) fn keeps_source(&self, address: IpAddr) -> bool {
        let nets = &self.global.no_nat;
        nets.iter().any(|net| net.contains(&address))
    }

    /// Whether this address is of several hosts, the gateway's among them.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        self.global.broadcasts.contains(&address)
    }

    /// Whether the peer may reach this far end.
    pub(super) fn allows(&self, peer: PeerId, far: &RemoteEndpoint) -> bool {
        let rules = self.rules.get(peer.0 as usize);
        rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(far)))
    }

    /// Whether one client's packet may go to another one: the sender's rules name the receiver's
    /// end, or the receiver's rules name the sender's and the packet may be an answer. What opens
    /// a TCP connection, or asks for an echo, is no answer.
    pub(super) fn permits_peer_to_peer(
        &self,
        from: PeerId,
        to: PeerId,
        packet: &Packet<'_>,
    ) -> bool {
        let meets = |peer, far: Option<RemoteEndpoint>| {
            far.is_some_and(|far| {
                let far = RemoteEndpoint {
                    is_client: true,
                    ..far
                };
                self.allows(peer, &far)
            })
        };
        self.global.client_to_client
            && (meets(from, RemoteEndpoint::of_destination(packet))
                || (!is_opening(packet) && meets(to, RemoteEndpoint::of_source(packet))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(address: [u8; 4], protocol: IpProtocol, port: Option<u16>) -> RemoteEndpoint {
        RemoteEndpoint {
            address: address.into(),
            is_client: false,
            protocol,
            port,
        }
    }

    #[test]
    fn a_peer_reaches_what_its_rules_say_and_nothing_else() {
        use IpProtocol::{Icmp, Tcp, Udp};
        let mut policy = Policy::new(GlobalPolicy::default());
        let (alice, bob) = (PeerId(3), PeerId(1));
        policy.set(
            alice,
            vec![Rule {
                place: Destination::Net("192.168.77.10/32".parse().unwrap()),
                protocol: Some(Tcp),
                ports: Some(445..=445),
            }],
        );
        let server = [192, 168, 77, 10];
        assert!(policy.allows(alice, &far(server, Tcp, Some(445))));
        assert!(!policy.allows(alice, &far(server, Tcp, Some(446))));
        assert!(!policy.allows(alice, &far(server, Udp, Some(445))));
        assert!(!policy.allows(alice, &far(server, Tcp, None)));
        assert!(!policy.allows(alice, &far([192, 168, 77, 11], Tcp, Some(445))));
        assert!(!policy.allows(bob, &far(server, Tcp, Some(445))));
        policy.set(bob, vec![Rule::network("192.168.77.0/24".parse().unwrap())]);
        assert!(policy.allows(bob, &far(server, Icmp, None)));
        assert!(!policy.allows(bob, &far([8, 8, 8, 8], Icmp, None)));
    }

    #[test]
    fn a_rule_for_clients_names_clients_only() {
        let rule = Rule::all(Destination::Clients);
        let neighbour = far([10, 8, 0, 12], IpProtocol::Udp, Some(1));
        assert!(!rule.allows(&neighbour));
        assert!(rule.allows(&RemoteEndpoint {
            is_client: true,
            ..neighbour
        }));
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
