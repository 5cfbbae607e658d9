"""Results of ping, traceroute and path MTU discovery."""

import re
import socket

import pytest

from . import topology
from .net import wait_for

MTU = 1420
IP_AND_ICMP = 28
IP_AND_UDP = 28
IP_MTU = 14
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2


@pytest.fixture
def client(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    start_gateway(clients)
    return client


def test_ping_the_gateways_tunnel_address(client):
    assert client.machine.ping(topology.TUNNEL).returncode == 0


def test_ping_the_server(client):
    assert client.machine.ping(topology.SERVER).returncode == 0


def test_a_host_that_is_not_there_is_reported(client):
    shown = client.machine.ping("192.168.77.99", seconds=10)
    assert re.search(r"From \S+ .*Destination Host Unreachable", shown.stdout), shown.stdout


def test_ping_in_fragments(client):
    shown = client.machine.ping(topology.SERVER, "-M", "dont", "-s", "4000")
    assert shown.returncode == 0, shown.stdout


def test_a_ttl_of_one_ends_at_the_gateway(client):
    shown = client.machine.ping(topology.SERVER, "-t", "1")
    assert re.search(r"From \S+ .*Time to live exceeded", shown.stdout), shown.stdout
    assert client.machine.ping(topology.SERVER, "-t", "2").returncode == 0


def test_the_largest_packet_passes_and_one_more_byte_does_not(client):
    whole = client.machine.ping(topology.SERVER, "-M", "do", "-s", str(MTU - IP_AND_ICMP))
    assert whole.returncode == 0, whole.stdout
    larger = client.machine.ping(topology.SERVER, "-M", "do", "-s", str(MTU - IP_AND_ICMP + 1))
    assert larger.returncode != 0
    assert "message too long" in (larger.stdout + larger.stderr).lower()


def test_the_server_learns_the_tunnels_mtu(lab, client):
    """A datagram of the server's that is too long for the tunnel and must not be fragmented is
    answered with "fragmentation needed", in terms of the server's own flow."""
    with lab.server.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    server.settimeout(5)
    server.bind((topology.SERVER, 7777))
    with client.machine.entered():
        user = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    user.settimeout(5)
    with server, user:
        user.connect((topology.SERVER, 7777))
        user.send(b"hello")
        _, source = server.recvfrom(100)
        server.connect(source)
        server.send(bytes(MTU + 1 - IP_AND_UDP))
        wait_for("the server to learn the MTU",
                 lambda: server.getsockopt(socket.IPPROTO_IP, IP_MTU) == MTU)
        # Reading the pending error clears it.
        server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        server.send(bytes(MTU - IP_AND_UDP))
        assert len(user.recv(2000)) == MTU - IP_AND_UDP


def test_a_closed_udp_port_is_reported(client):
    with client.machine.entered():
        user = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with user, pytest.raises(ConnectionRefusedError):
        user.settimeout(5)
        user.connect((topology.SERVER, 7778))
        user.send(b"anybody?")
        user.recv(100)


def test_a_closed_tcp_port_is_refused(client):
    with client.machine.entered(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((topology.SERVER, 7778), timeout=5)


@pytest.mark.parametrize("family", [4, 6])
def test_four_clients_that_trace_a_route_all_see_the_first_hop(lab, start_gateway, tmp_path, family):
    clients = lab.clients(4)
    with lab.ipv6_on_the_lan():
        gateway = start_gateway(clients, address6="fd00:77::2")
        gateway.answers()
        target = topology.SERVER if family == 4 else topology.SERVER6
        probes = [client.machine.start("ping", "-n", f"-{family}", "-t", "1", "-c", "10", "-i", "0.1", "-W", "1",
                                       target, output=tmp_path / f"{client.name}.probes") for client in clients]
        for probe in probes:
            probe.wait(20)
        expired = [len(re.findall(r"Time to live exceeded|Time exceeded", probe.text())) for probe in probes]
    assert expired == [10] * 4, probes[0].text()


@pytest.mark.parametrize("family", [4, 6])
def test_the_longest_datagrams_pass(lab, start_gateway, family):
    """The server's MTU is 1500: the gateway's kernel cuts each of its fragments for the tunnel."""
    (client,) = clients = lab.clients(1)
    server, kind = ((topology.SERVER, socket.AF_INET), (topology.SERVER6, socket.AF_INET6))[family == 6]
    with lab.ipv6_on_the_lan():
        start_gateway(clients, address6="fd00:77::2")
        options = ["-M", "dont"] if family == 4 else []
        # Over IPv6 the server's first answers teach it the tunnel's MTU.
        wait_for("an answer of 60,000 bytes",
                 lambda: client.machine.ping(server, "-s", "60000", *options).returncode == 0)
        with lab.server.entered():
            sender = socket.socket(kind, socket.SOCK_DGRAM)
        with client.machine.entered():
            user = socket.socket(kind, socket.SOCK_DGRAM)
        with sender, user:
            sender.bind((server, 7777))
            sender.settimeout(5)
            user.settimeout(0.5)
            user.sendto(bytes(65_507), (server, 7777))
            came, source = sender.recvfrom(1 << 17)
            assert len(came) == 65_507

            def comes():
                sender.sendto(bytes(65_507), source)
                try:
                    return len(user.recv(1 << 17)) == 65_507
                except TimeoutError:
                    return False

            wait_for("a datagram of 65,507 bytes", comes)
