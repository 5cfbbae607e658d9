//! What each client may reach. Asked once for each super-packet, before translation, and by what
//! the tunnel authenticated, not by what the client claims.

use crate::ids::PeerId;
use ipnet::IpNet;
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// One thing that a client may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The destination; `None` is any.
    pub net: Option<IpNet>,
    /// The protocol; `None` is any.
    pub protocol: Option<IpProtocol>,
    /// The destination ports; `None` is any.
    pub ports: Option<RangeInclusive<u16>>,
}

impl Rule {
    /// Everything in a network.
    pub fn network(net: IpNet) -> Self {
        Self {
            net: Some(net),
            protocol: None,
            ports: None,
        }
    }

    fn allows(&self, destination: IpAddr, protocol: IpProtocol, port: Option<u16>) -> bool {
        self.net.is_none_or(|net| net.contains(&destination))
            && self.protocol.is_none_or(|p| p == protocol)
            && match (&self.ports, port) {
                (None, _) => true,
                (Some(ports), Some(port)) => ports.contains(&port),
                (Some(_), None) => false,
            }
    }
}

/// The rules of all peers.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// By peer id.
    rules: Vec<Vec<Rule>>,
}

impl Policy {
    /// Replaces a peer's rules; without any, it reaches nothing.
    pub(super) fn set(&mut self, peer: PeerId, rules: Vec<Rule>) {
        let at = peer.0 as usize;
        if self.rules.len() <= at {
            self.rules.resize_with(at + 1, Vec::new);
        }
        self.rules[at] = rules;
    }

    /// Whether the peer may send this. `port` is the destination port, where there is one.
    pub(super) fn allows(
        &self,
        peer: PeerId,
        destination: IpAddr,
        protocol: IpProtocol,
        port: Option<u16>,
    ) -> bool {
        self.rules
            .get(peer.0 as usize)
            .is_some_and(|rules| rules.iter().any(|r| r.allows(destination, protocol, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reaches_what_its_rules_say_and_nothing_else() {
        let mut policy = Policy::default();
        let (alice, bob) = (PeerId(3), PeerId(1));
        policy.set(
            alice,
            vec![Rule {
                net: Some("192.168.77.10/32".parse().unwrap()),
                protocol: Some(IpProtocol::Tcp),
                ports: Some(445..=445),
            }],
        );
        let server = IpAddr::from([192, 168, 77, 10]);
        assert!(policy.allows(alice, server, IpProtocol::Tcp, Some(445)));
        assert!(!policy.allows(alice, server, IpProtocol::Tcp, Some(446)));
        assert!(!policy.allows(alice, server, IpProtocol::Udp, Some(445)));
        assert!(!policy.allows(alice, server, IpProtocol::Tcp, None));
        assert!(!policy.allows(alice, [192, 168, 77, 11].into(), IpProtocol::Tcp, Some(445)));
        assert!(!policy.allows(bob, server, IpProtocol::Tcp, Some(445)));
        policy.set(bob, vec![Rule::network("192.168.77.0/24".parse().unwrap())]);
        assert!(policy.allows(bob, server, IpProtocol::Icmp, None));
        assert!(!policy.allows(bob, [8, 8, 8, 8].into(), IpProtocol::Icmp, None));
    }
}
