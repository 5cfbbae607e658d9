//! Transfers through the endpoint arrive unchanged on every kind of link.

use crate::network::{Family, Faults, Network, SERVER};
use crate::{network, network_of, network_of_shards};
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use std::time::Duration;
use vcgate_core::smb::Mode;

/// Returns a byte of a client's stream; streams and offsets differ.
fn byte(client: usize, at: usize) -> u8 {
    (at as u32)
        .wrapping_mul(2_654_435_761)
        .wrapping_add(client as u32 * 97)
        .to_be_bytes()[0]
}

struct Copy {
    client: usize,
    near: SocketHandle,
    far: SocketHandle,
    /// Bytes sent and received, to the server and to the client.
    sent: [usize; 2],
    arrived: [usize; 2],
}

/// Transfers `size` bytes in both directions for each client; returns whether all arrived.
pub(crate) fn copy_both_ways(network: &mut Network, size: usize) -> bool {
    let server = network.family.server();
    let mut copies: Vec<Copy> = (0..network.clients.len())
        .map(|client| {
            let port = 5000 + client as u16;
            let far = network.server.listen(port);
            let near = network.clients[client]
                .host
                .connect(40_000, (server, port).into());
            Copy {
                client,
                near,
                far,
                sent: [0; 2],
                arrived: [0; 2],
            }
        })
        .collect();
    network.run(Duration::from_secs(600), |net| {
        let mut done = true;
        for c in &mut copies {
            let near = net.clients[c.client].host.tcp(c.near);
            move_data(near, c.client, size, &mut c.sent[0], &mut c.arrived[1]);
            let far = net.server.tcp(c.far);
            move_data(far, c.client, size, &mut c.sent[1], &mut c.arrived[0]);
            done &= c.arrived == [size; 2];
        }
        done
    })
}

/// Sends as much of a client's stream as a socket accepts, and checks received bytes.
pub(crate) fn move_data(
    socket: &mut smoltcp::socket::tcp::Socket<'_>,
    client: usize,
    size: usize,
    sent: &mut usize,
    arrived: &mut usize,
) {
    if socket.may_send() && *sent < size {
        *sent += socket
            .send(|buffer| {
                let n = buffer.len().min(size - *sent);
                for (i, b) in buffer[..n].iter_mut().enumerate() {
                    *b = byte(client, *sent + i);
                }
                (n, n)
            })
            .unwrap_or(0);
    }
    while socket.can_recv() {
        let n = socket.recv(|data| {
            for (i, b) in data.iter().enumerate() {
                assert_eq!(
                    *b,
                    byte(client, *arrived + i),
                    "client {client}, byte {}",
                    *arrived + i
                );
            }
            (data.len(), data.len())
        });
        match n {
            Ok(n) if n > 0 => *arrived += n,
            _ => break,
        }
    }
}

#[test]
fn transfers_complete_without_faults() {
    for family in [Family::V4, Family::V6] {
        let mut network = network_of(family, 3, Mode::Assign, 1);
        assert!(copy_both_ways(&mut network, 2_000_000));
        assert_eq!(network.engine.nat().flows(network.now).count(), 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn transfers_complete_under_loss_reordering_and_duplication(
        shards in 1u8..4, six in any::<bool>(), seed in any::<u64>(),
        loss in 0.0..0.05, reorder in 0.0..0.2, duplicate in 0.0..0.1,
    ) {
        let family = if six { Family::V6 } else { Family::V4 };
        let mut network = network_of_shards(shards, family, 3, Mode::Assign, seed);
        network.faults = Faults { loss, reorder, duplicate };
        network.lan_faults = Faults { loss: loss / 4.0, reorder, duplicate };
        prop_assert!(copy_both_ways(&mut network, 100_000));
    }
}

#[test]
fn a_transfer_survives_a_change_of_the_client_s_endpoint() {
    let mut network = network(1, Mode::Assign, 3);
    let far = network.server.listen(5000);
    let near = network.clients[0]
        .host
        .connect(40_000, (SERVER, 5000).into());
    let (size, mut sent, mut arrived, mut moved) = (1_000_000, 0, 0, false);
    let done = network.run(Duration::from_secs(60), |net| {
        let mut nothing = 0;
        move_data(
            net.clients[0].host.tcp(near),
            0,
            size,
            &mut sent,
            &mut nothing,
        );
        move_data(net.server.tcp(far), 0, 0, &mut nothing, &mut arrived);
        if arrived > size / 2 && !moved {
            net.clients[0].address = "198.51.100.7:6000".parse().unwrap();
            moved = true;
        }
        arrived == size
    });
    assert!(done && moved);
    let peer = network.engine.tunnel().peers().next().unwrap();
    assert_eq!(peer.path.unwrap().remote, network.clients[0].address);
}
