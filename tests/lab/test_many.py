"""Many clients behind one LAN address: ports below 1024 for each, and more clients than blocks of ports."""

import contextlib
import resource
import select
import socket
import time

import pytest

from . import topology
from .callers import listener, serving

SITES = 4
"""Peers, each with a network of inner addresses."""
HOSTS = 500
RESERVED = 1024
NFS, ECHO = 2049, 7
PATIENCE = 20


def network(client):
    return f"10.9.{2 * client.number}.0/23"


def hosts(client, count):
    return [f"10.9.{2 * client.number + n // 250}.{1 + n % 250}" for n in range(count)]


@pytest.fixture
def open_sites(lab, start_gateway):
    """A function that starts a gateway with sites, and returns their addresses with their machines."""
    clients = lab.clients(SITES)

    def start(count, **options):
        gateway = start_gateway(clients, **options)
        ends = []
        for client in clients:
            gateway.machine.run("wg", "set", gateway.name, "peer", client.keys.public,
                                "allowed-ips", f"{client.inner}/32,{network(client)}")
            # A whole prefix is local at once when it is an address of `lo`. Hundreds of single addresses
            # overflow the queue in which wireguard-go listens for changes, and it ends.
            client.machine.ip("address", "add", network(client), "dev", "lo")
            ends += [(client.machine, address) for address in hosts(client, count)]
        return gateway, ends

    yield start
    for client in clients:
        client.machine.ip("address", "delete", network(client), "dev", "lo", check=False)


def refusing_high_ports(server):
    """As NFS exports with `secure` do, LPD and rsh: who has no port below 1024 is not served."""
    while True:
        connection, (_, port) = server.accept()
        with connection:
            connection.sendall(b"%d" % port if port < RESERVED else b"refused")


def bound(machine, address, kind):
    with machine.entered():
        end = socket.socket(socket.AF_INET, kind)
    end.bind(address)
    end.settimeout(PATIENCE)
    return end


@pytest.mark.parametrize("shards", [1, 2])
def test_rfc4787_req3a_each_of_40_clients_has_a_port_below_1024(lab, open_sites, shards):
    gateway, ends = open_sites(10, shards=shards, nat={"log_file": "ports.jsonl"})
    with contextlib.ExitStack() as stack:
        server = (topology.SERVER, NFS)
        stack.enter_context(serving(lab.server, server, socket.SOCK_STREAM, refusing_high_ports))
        seen = []
        for machine, address in ends:
            client = stack.enter_context(bound(machine, (address, 700), socket.SOCK_STREAM))
            client.connect(server)
            seen.append(client.recv(100))
        assert b"refused" not in seen
        assert len(set(seen)) == len(ends) == 40
        # The log names the holder of each.
        for (_, address), port in zip(ends, seen):
            assert address in gateway.vcgate("who", port.decode()).stdout


def test_rfc6888_req11_2000_clients_have_three_flows_each(lab, open_sites):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gateway, ends = open_sites(HOSTS)
    server = (topology.SERVER, ECHO)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener(lab.server, server, socket.SOCK_DGRAM))
        waiting = {}
        began = time.monotonic()
        for machine, address in ends:
            for port in (5000, 5001, 5002):
                client = bound(machine, (address, port), socket.SOCK_DGRAM)
                stack.callback(client.close)
                client.sendto(b"?", server)
                waiting[client] = f"{address}:{port}"
            answered(waiting, 0.01)
        while waiting and time.monotonic() < began + 3 * PATIENCE:
            answered(waiting, 1)
            for client in waiting:
                client.sendto(b"?", server)  # lost on the way
    assert not waiting, f"{len(waiting)} have no answer, such as {min(waiting.values())}"
    assert gateway.json("status")["drops"].get("no_port", 0) == 0


def answered(waiting, seconds):
    """Takes away those that have an answer."""
    poll = select.poll()
    ends = {client.fileno(): client for client in waiting}
    for number in ends:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(seconds * 1000):
        del waiting[ends[number]]
