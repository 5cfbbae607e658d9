//! One port with a socket for each shard. The kernel delivers each datagram to the shard that its
//! receiver index names (WireGuard paper, section 5.4), and distributes all others.

use super::{Settings, Udp, UdpError};
use crate::sys;
use std::io;
use std::sync::Arc;
use tracing::warn;
use vcgate_core::ids::ShardId;

/// Whether a socket shares its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The socket must be the only one.
    Alone,
    /// The socket joins those of other shards.
    Joins,
}

impl Udp {
    /// Binds a socket for each shard to one port, in the order of the shards' numbers.
    ///
    /// # Errors
    /// If the port is taken or the process may not use it.
    pub fn bind_all(settings: Settings, shards: u8) -> Result<Vec<Self>, UdpError> {
        // The first socket does not share: it must not join those of another process.
        let first = Self::bind(settings)?;
        let offloads = [
            ("GSO", settings.gso, first.gso()),
            ("GRO", settings.gro, first.gro()),
        ];
        for (offload, _, _) in offloads
            .iter()
            .filter(|(_, wanted, there)| *wanted && !there)
        {
            warn!(
                "cannot use UDP {offload}: the kernel does not support it; datagrams go one by one, which is slower"
            );
        }
        let Some(shard) = ShardId::all(shards)
            .next()
            .filter(|shard| !shard.is_alone())
        else {
            return Ok(vec![first]);
        };
        let port = first.port();
        let other = |source| UdpError::Other { port, source };
        first.socket.set_reuse_port(true).map_err(other)?;
        let mut all = vec![first];
        for _ in 1..shard.of() {
            let settings = Settings { port, ..settings };
            let joined = Self::bind_as(settings, Sharing::Joins)?;
            let warned = Arc::clone(&all[0].warned);
            all.push(Self { warned, ..joined });
        }
        if let Some(Err(error)) = all.first().map(|first| first.attach_steering(shard)) {
            warn!(%error, "cannot steer datagrams to shards; shards forward them, which is slower");
        }
        Ok(all)
    }

    /// Attaches a program that reads the shard's number from the top bits of a receiver index. An
    /// initiation has none.
    fn attach_steering(&self, shard: ShardId) -> io::Result<()> {
        use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH};
        const BPF_A: u32 = 0x10;
        /// More than the number of sockets: the kernel chooses by the addresses.
        const ANY: u32 = u32::MAX;
        let load = |at| sys::instruction(BPF_LD | BPF_B | BPF_ABS, at, 0, 0);
        let is = |kind, then, otherwise| {
            sys::instruction(BPF_JMP | BPF_JEQ | BPF_K, kind, then, otherwise)
        };
        let program = [
            load(0),     // the message type
            is(4, 3, 0), // data
            is(3, 2, 0), // a cookie
            is(2, 3, 0), // a response
            sys::instruction(BPF_RET | BPF_K, ANY, 0, 0),
            load(7),                            // the top byte of the index at offset 4
            sys::instruction(BPF_JMP, 1, 0, 0), // BPF_JA: skips the next one
            load(11),                           // the top byte of the index at offset 8
            sys::instruction(BPF_ALU | BPF_RSH | BPF_K, 8 - shard.bits(), 0, 0),
            sys::instruction(BPF_RET | BPF_A, 0, 0, 0),
        ];
        sys::attach_steering(&self.socket, &program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::Inbox;
    use std::net::UdpSocket;

    /// Returns a datagram of this type whose receiver index has these top bits.
    fn datagram(kind: u8, at: usize, top: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[0] = kind;
        bytes[at + 3] = top;
        bytes
    }

    fn receive(all: &mut [Udp], inbox: &mut Inbox) -> usize {
        loop {
            for (number, udp) in all.iter_mut().enumerate() {
                if udp.receive(inbox).unwrap() > 0 {
                    return number;
                }
            }
        }
    }

    #[test]
    fn each_shard_receives_the_datagrams_with_its_number() {
        let mut inbox = Inbox::new();
        for shards in [2, 3, 8] {
            let mut all = Udp::bind_all(Settings::on_port(0), shards).unwrap();
            let port = all[0].port();
            assert!(all.iter().all(|udp| udp.port() == port));
            let local = ["127.0.0.1:0", "[::1]:0"].map(UdpSocket::bind);
            for client in local.into_iter().flatten() {
                let to = client.local_addr().unwrap().ip();
                for shard in ShardId::all(shards) {
                    let top = shard.number() << (8 - shard.bits());
                    for (kind, at) in [(4, 4), (3, 4), (2, 8)] {
                        let bytes = datagram(kind, at, top | 0b11);
                        client.send_to(&bytes, (to, port)).unwrap();
                        let got = receive(&mut all, &mut inbox);
                        assert_eq!(got, usize::from(shard.number()), "kind {kind} of {shards}");
                    }
                }
                // An initiation, an unknown type and a short datagram: to any socket.
                for bytes in [&[1u8, 0, 0, 0][..], &[9; 40], &[4]] {
                    client.send_to(bytes, (to, port)).unwrap();
                    receive(&mut all, &mut inbox);
                }
            }
        }
    }

    #[test]
    fn a_port_is_not_shared_with_other_sockets() {
        let all = Udp::bind_all(Settings::on_port(0), 2).unwrap();
        let again = Udp::bind_all(Settings::on_port(all[0].port()), 2);
        assert!(matches!(again, Err(UdpError::PortTaken(_))));
    }
}
