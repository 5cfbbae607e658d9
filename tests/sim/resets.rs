//! Connections that cannot continue are reset, so that servers free what belongs to them.

use crate::ip::ping;
use crate::network::{Family, GATEWAY, Network, inner};
use crate::transfer::move_data;
use crate::{engine, lan_rules, network_of, network_of_shards, settings};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::time::Duration;
use vcgate_core::engine::{Engine, GlobalPolicy};
use vcgate_core::ids::ShardId;
use vcgate_core::nat::Limits;
use vcgate_core::smb::Mode;

const SECOND: Duration = Duration::from_secs(1);

/// A connection of the first client to the server.
struct Connection {
    near: SocketHandle,
    far: SocketHandle,
    moved: [usize; 4],
}

impl Connection {
    fn open(network: &mut Network) -> Self {
        let far = network.server.listen(445);
        let server = (network.family.server(), 445).into();
        let near = network.clients[0].host.connect(40_000, server);
        let mut connection = Self {
            near,
            far,
            moved: [0; 4],
        };
        connection.transfer(network, 5000, 5000);
        connection
    }

    /// Sends up to this many bytes in total to the server and to the client, and waits until they
    /// are acknowledged.
    fn transfer(&mut self, network: &mut Network, to_server: usize, to_client: usize) {
        let [up, arrived, down, back] = &mut self.moved;
        let done = network.run(60 * SECOND, |net| {
            move_data(net.clients[0].host.tcp(self.near), 0, to_server, up, back);
            move_data(net.server.tcp(self.far), 0, to_client, down, arrived);
            (*arrived, *back) == (to_server, to_client)
        });
        assert!(done);
        network.wait(SECOND);
        assert_eq!(self.states(network), [State::Established; 2]);
    }

    fn states(&self, network: &mut Network) -> [State; 2] {
        let near = network.clients[0].host.tcp(self.near).state();
        [near, network.server.tcp(self.far).state()]
    }
}

/// Runs a command on each engine as a shard does.
fn command(network: &mut Network, command: impl Fn(&mut Engine, std::time::Instant)) {
    let now = network.now;
    for shard in 0..=network.other_shards.len() {
        command(network.shard(shard), now);
    }
    network.flush();
}

#[test]
fn both_ends_of_the_connections_of_a_removed_peer_are_reset() {
    for family in Family::BOTH {
        let mut network = network_of_shards(2, family, 2, Mode::Observe, 1);
        let connection = Connection::open(&mut network);
        command(&mut network, |engine, now| {
            let peer = engine.tunnel().route(family.inner(0)).unwrap();
            engine.change_peers(now, |engine| engine.remove_peer(peer, now));
        });
        network.wait(SECOND);
        assert_eq!(connection.states(&mut network), [State::Closed; 2]);
    }
}

#[test]
fn both_ends_of_the_connections_of_a_reassigned_address_are_reset() {
    for family in Family::BOTH {
        let mut network = network_of_shards(2, family, 2, Mode::Observe, 2);
        let connection = Connection::open(&mut network);
        command(&mut network, |engine, now| {
            let other = engine.tunnel().route(family.inner(1)).unwrap();
            engine.change_peers(now, |engine| {
                engine.tunnel_mut().allow(other, family.inner(0).into())
            });
        });
        network.wait(SECOND);
        assert_eq!(connection.states(&mut network), [State::Closed; 2]);
    }
}

#[test]
fn the_connection_between_two_clients_is_reset_when_one_is_removed() {
    let mut network = network_of_shards(2, Family::V4, 2, Mode::Observe, 3);
    let server = network.clients[1].host.listen(7000);
    let forward = vcgate_core::nat::Forward {
        protocol: vcgate_core::nat::Protocol::Tcp,
        port: 8000,
        to: (Family::V4.inner(1), 7000).into(),
        lan: None,
    };
    command(&mut network, |engine, now| {
        engine.add_forward(forward, now).unwrap()
    });
    let lan = (Family::V4.lan(), 8000).into();
    // The gateway knows a client's address once it has sent something.
    let hello = ping(inner(1), GATEWAY, 1, b"");
    network.client_sends(1, &hello);
    network.wait(SECOND);
    let client = network.clients[0].host.connect(40_000, lan);
    network.wait(SECOND);
    let states = |network: &mut Network| {
        let near = network.clients[0].host.tcp(client).state();
        [near, network.clients[1].host.tcp(server).state()]
    };
    assert_eq!(states(&mut network), [State::Established; 2]);
    command(&mut network, |engine, now| {
        let peer = engine.tunnel().route(Family::V4.inner(0)).unwrap();
        engine.change_peers(now, |engine| engine.remove_peer(peer, now));
    });
    network.wait(SECOND);
    assert_eq!(states(&mut network), [State::Closed; 2]);
}

/// Replaces the engine by one without flows.
fn restart_without_flows(network: &mut Network) {
    let (policy, limits) = (GlobalPolicy::default(), Limits::default());
    let settings = settings(ShardId::ALONE, policy, limits, Mode::Observe, 77);
    let engine = engine(settings, &[lan_rules()], network.now);
    network.replace_engines(vec![engine]);
}

#[test]
fn a_server_that_sends_on_a_lost_connection_is_reset() {
    for family in Family::BOTH {
        let mut network = network_of(family, 1, Mode::Observe, 4);
        let connection = Connection::open(&mut network);
        restart_without_flows(&mut network);
        network
            .server
            .tcp(connection.far)
            .send_slice(b"data")
            .unwrap();
        network.wait(SECOND);
        assert_eq!(connection.states(&mut network)[1], State::Closed);
    }
}

#[test]
fn a_silent_server_s_end_of_a_lost_connection_is_reset() {
    for family in Family::BOTH {
        for more in [0, 100_000] {
            let mut network = network_of(family, 1, Mode::Observe, 5);
            let mut connection = Connection::open(&mut network);
            let known = network.engine.server_connections(10, network.now);
            assert_eq!(known.len(), 1);
            assert_eq!(known[0].lan.ip(), family.lan());
            // The numbers that are known are those of then.
            connection.transfer(&mut network, 5000 + more, 5000);
            restart_without_flows(&mut network);
            network.wait(SECOND);
            assert_eq!(connection.states(&mut network)[1], State::Established);
            network.engine.reset_server_connections(&known);
            network.flush();
            network.wait(SECOND);
            let state = connection.states(&mut network)[1];
            assert_eq!(state, State::Closed, "{family:?}, {more} bytes later");
        }
    }
}

#[test]
fn changes_of_connections_to_file_servers_are_counted() {
    let mut network = network_of(Family::V4, 1, Mode::Observe, 6);
    let before = network.engine.server_connection_changes();
    let connection = Connection::open(&mut network);
    let opened = network.engine.server_connection_changes();
    assert!(opened > before);
    network.wait(SECOND);
    assert_eq!(network.engine.server_connection_changes(), opened);
    network.clients[0].host.tcp(connection.near).close();
    network.server.tcp(connection.far).close();
    network.wait(SECOND);
    assert!(network.engine.server_connection_changes() > opened);
    assert_eq!(network.engine.server_connections(10, network.now), []);
}
