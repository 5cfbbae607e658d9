"""Services of the gateway machine at its tunnel address."""

import contextlib
import socket

import pytest

from . import names, topology
from .callers import ask, call, listener, serving

TUNNEL, TUNNEL6 = topology.TUNNEL, topology.TUNNEL6


@contextlib.contextmanager
def services(machine, *addresses):
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(listener(machine, (address, 22)))
            stack.enter_context(listener(machine, (address, 123), socket.SOCK_DGRAM))
        yield


def test_services_are_closed_until_they_are_opened_by_a_reload(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    with services(gateway.machine, "0.0.0.0"):
        for attempt in (lambda: call(client.machine, (TUNNEL, 22)), lambda: ask(client.machine, (TUNNEL, 123))):
            with pytest.raises(ConnectionRefusedError):
                attempt()
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace("[interface]\n", '[interface]\nservices = ["tcp/22", "udp/123"]\n'))
        assert "interface.services" in gateway.vcgate("reload").stdout
        # The service sees the client's own address.
        assert call(client.machine, (TUNNEL, 22)) == client.inner
        assert ask(client.machine, (TUNNEL, 123)) == client.inner
        assert client.machine.ping(TUNNEL).returncode == 0


def test_reach_opens_a_service_for_one_client(lab, make_gateway):
    first, second = clients = lab.clients(2)
    gateway = make_gateway("vcgate", address6="fd00:77::2")
    with lab.ipv6_on_the_lan():
        gateway.write(clients)
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace(
            'name = "user1"\n', 'name = "user1"\nreach = ["192.168.77.0/24", "gateway:tcp/22"]\n'))
        gateway.up()
        for client in clients:
            client.connect(gateway)
        with services(gateway.machine, "0.0.0.0", TUNNEL6):
            assert call(first.machine, (TUNNEL, 22)) == first.inner
            assert call(first.machine, (TUNNEL6, 22)) == first.inner6
            for attempt in (lambda: ask(first.machine, (TUNNEL, 123)), lambda: call(second.machine, (TUNNEL, 22)),
                            lambda: call(second.machine, (TUNNEL6, 22))):
                with pytest.raises(ConnectionRefusedError):
                    attempt()


def test_another_dns_server_of_the_machine_answers_instead(lab, make_gateway, tmp_path):
    """As with Pi-hole: it has port 53 of all addresses when vcgate starts."""
    (client,) = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write([client])
    server = gateway.machine.start(
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
        "--pid-file=", "--user=root", "--host-record=own.lan.example,192.168.77.5",
        output=tmp_path / "dnsmasq")
    try:
        gateway.machine.listening(53, udp=True)
        gateway.up()
        client.connect(gateway)
        assert names.dig(client.machine, TUNNEL, "own.lan.example") == ["192.168.77.5"]
        assert f"cannot answer DNS at {TUNNEL}" in gateway.process.text()
    finally:
        server.stop()


def test_a_large_transfer_from_and_to_a_service(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, services=["tcp/22"])
    data = bytes(range(256)) * 4096

    def serve(server):
        connection, _ = server.accept()
        with connection:
            received = b""
            while len(received) < len(data):
                received += connection.recv(65536)
            connection.sendall(received)

    with serving(gateway.machine, (TUNNEL, 22), socket.SOCK_STREAM, serve):
        with client.machine.entered():
            caller = socket.create_connection((TUNNEL, 22), 10)
        with caller:
            caller.sendall(data)
            received = b""
            while len(received) < len(data):
                received += caller.recv(65536)
    assert received == data
