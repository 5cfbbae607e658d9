"""Every reason why a client cannot connect: the log names it, and `vcgate peer why` explains it."""

import contextlib
import socket

import pytest

from . import topology
from .gateway import PORT
from .net import run, wait_for
from .wireguard import NETWORKS, Keys

FOREIGN = "10.8.0.99"
DROP = f"add table ip vcl\nadd chain ip vcl in {{ type filter hook input priority 0; }}\n" \
       f"add rule ip vcl in udp dport {PORT} drop\n"


def outside(client):
    return f"203.0.113.{100 + client.number}"


def start(client, gateway, *, server_key=None, port=PORT, networks=NETWORKS, keepalive=1):
    """Brings a client's tunnel up, and lets it connect if it can."""
    client.start(f"""
        [Interface]
        PrivateKey = {client.keys.private}
        [Peer]
        PublicKey = {server_key or gateway.public_key}
        {f"PresharedKey = {client.psk}" if client.psk else ""}
        Endpoint = {topology.GATEWAY_WAN}:{port}
        AllowedIPs = {", ".join(networks)}
        PersistentKeepalive = {keepalive}
        """)


def why(gateway, client, connected=False):
    explained = gateway.vcgate("peer", "why", client.name, check=False)
    assert explained.returncode == (0 if connected else 1), explained.stdout + explained.stderr
    return explained.stdout


def logged(gateway, client, text, *, peer=True, seconds=20):
    """Waits for the line about this client at the default level."""
    subject = f"peer={client.name} source" if peer else "from"
    gateway.process.wait_for_line(rf"cannot .*{text}.* {subject}={outside(client)}:\d+", seconds)


@contextlib.contextmanager
def key_of(client, keys):
    """The client has other keys for a while."""
    own, client.keys = client.keys, keys
    try:
        yield
    finally:
        client.keys = own


def test_a_client_in_order_has_no_line_and_no_cause(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    client.machine.reaches(topology.SERVER)
    explained = why(gateway, client, connected=True)
    assert f"{client.name} is connected.\n" in explained
    assert "ause:" not in explained and "cannot" not in gateway.process.text()


def test_a_wrong_preshared_key(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    client.psk = run("wg", "genpsk").stdout.strip()
    gateway = start_gateway(clients, connect=False)
    client.psk = run("wg", "genpsk").stdout.strip()
    start(client, gateway)
    logged(gateway, client, "confirms no answer: most likely it has another preshared key")
    assert "Likely cause: its handshakes arrive and are answered" in why(gateway, client)
    # A handshake of our own makes it certain.
    gateway.machine.run("wg", "set", gateway.name, "peer", client.keys.public, "persistent-keepalive", "1")
    logged(gateway, client, "it has another preshared key, or none; hand out the client's file again")
    assert "\nCause: it has another preshared key, or none" in why(gateway, client)


def test_a_wrong_server_key(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    start(client, gateway, server_key=Keys().public)
    logged(gateway, client, "made for another public key", peer=False)
    assert f"if {outside(client)} is this client: its handshake was made" in why(gateway, client)


def test_an_unknown_key(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    with key_of(client, Keys()):
        start(client, gateway)
        logged(gateway, client, "no peer has its public key [A-Za-z0-9+/]{43}=", peer=False)
        key = client.keys.public
    assert f"if {outside(client)} is this client: no peer has its public key {key}" in why(gateway, client)


def test_an_older_time_stamp(lab, make_gateway):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway()
    gateway.write(clients)
    with gateway.machine.entered():
        endpoint = socket.socket(type=socket.SOCK_DGRAM)
    with endpoint:
        endpoint.bind((topology.GATEWAY_WAN, PORT))
        endpoint.settimeout(15)
        start(client, gateway)
        early = endpoint.recv(1500)
    gateway.up()
    client.machine.reaches(gateway.inner, 15)
    with client.machine.entered():
        sender = socket.socket(type=socket.SOCK_DGRAM)
    with sender:
        sender.sendto(early, (topology.GATEWAY_WAN, PORT))
    logged(gateway, client, "its clock was set back")
    # It still works: the message came from elsewhere.
    assert "last failure" in why(gateway, client, connected=True)


def test_a_foreign_inner_address(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    client.machine.ip("address", "add", f"{FOREIGN}/32", "dev", client.device.name)
    client.machine.ping(topology.SERVER, "-I", FOREIGN)
    logged(gateway, client, f"it sends from {FOREIGN}, which is not in its allowed_ips")
    assert f"\nCause: it sends from {FOREIGN}" in why(gateway, client, connected=True)


def test_two_devices_with_one_key(lab, start_gateway):
    first, second = lab.clients(2)
    gateway = start_gateway([first], connect=False)
    with key_of(second, first.keys):
        start(first, gateway)
        start(second, gateway)
        gateway.process.wait_for_line(
            rf"two devices use its key.* peer={first.name} source=203\.0\.113\.10[12]:\d+", 30)
        assert "Likely cause: two devices use its key" in why(gateway, first, connected=True)


def test_a_wrong_port(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    start(client, gateway, port=PORT + 1)
    explained = why(gateway, client)
    assert "no datagram of it has arrived" in explained
    assert f"Endpoint in its file is not {gateway.endpoint}" in explained


def test_networks_that_the_client_does_not_route(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    start(client, gateway, networks=NETWORKS[:1])
    client.machine.reaches(gateway.inner)
    with pytest.raises(TimeoutError):
        client.machine.reaches(topology.SERVER, 1)
    assert "AllowedIPs in its file do not contain the LAN's" in why(gateway, client, connected=True)


def test_a_firewall_in_front_of_the_port(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    gateway.machine.run("nft", "-f", "-", input=DROP)
    start(client, gateway)
    explained = why(gateway, client)
    assert f"drops clients' datagrams to UDP port {PORT}" in explained
    gateway.machine.run("nft", "delete", "table", "ip", "vcl")
    wait_for("the client to connect", lambda: gateway.vcgate(
        "peer", "why", client.name, check=False).returncode == 0)
