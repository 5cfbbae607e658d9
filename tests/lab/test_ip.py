"""What ping, traceroute and path MTU discovery see."""

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
