"""A client whose home network has the addresses of the LAN reaches the LAN by a mapped prefix."""

import contextlib
import json
import os
import re

from . import smb, topology
from .net import PREFIX
from .samba import PASSWORD

SIZE = 5_000_000
MAPPED = "10.77.1.10"
MAPPED6 = "fd00:1077::10"
NETWORKS = ["192.168.77.0/24 as 10.77.1.0/24", "fd00:77::/64 as fd00:1077::/64"]
# The interface that `wg-quick` makes for client 1.
DEVICE = f"{PREFIX}w1"
REFUSED = """
import socket, sys
udp = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.connect((sys.argv[1], 9))
udp.send(b"x")
try:
    udp.recv(1)
except ConnectionRefusedError:
    print("refused")
"""


@contextlib.contextmanager
def home(client):
    """The client's home network, with the same addresses as the LAN; a host there answers."""
    client.machine.ip("link", "add", "home", "type", "bridge")
    for address in ("192.168.77.5/24", f"{topology.SERVER}/24", "fd00:77::5/64", f"{topology.SERVER6}/64"):
        client.machine.ip("address", "add", address, "dev", "home")
    client.machine.ip("link", "set", "home", "up")
    try:
        yield
    finally:
        client.machine.ip("link", "delete", "home")


def networks(gateway, given):
    text = re.sub("networks = .+\n", f"networks = {json.dumps(given)}\n", gateway.config.read_text())
    gateway.config.write_text(text)


def connect(gateway, client):
    """Connects with the file that `peer add` has made."""
    gateway.vcgate("peer", "add", client.name)
    client.connect_quick(gateway.vcgate("peer", "show", client.name).stdout)


def refuses(client, address):
    """Whether a closed port's ICMP error reaches the socket of the client, which checks its quote."""
    return client.machine.run("python3", "-c", REFUSED, address).stdout.strip() == "refused"


def test_a_file_is_copied_from_a_server_with_an_address_of_the_home_network(
        lab, make_gateway, samba, tmp_path):
    client = lab.client(1)
    gateway = make_gateway("vcgate")
    gateway.write([])
    networks(gateway, NETWORKS[:1])
    gateway.up()
    log = samba.mark()
    sent = os.urandom(SIZE)
    (tmp_path / "sent").write_bytes(sent)
    with home(client):
        connect(gateway, client)
        client.machine.run(
            "smbclient", f"//{MAPPED}/{smb.SHARE}", "-U", f"{client.name}%{PASSWORD}", "-s", "/dev/null",
            "-m", "NT1", "--option=client min protocol=NT1",
            "-c", f"put {tmp_path}/sent copy; get copy {tmp_path}/received")
        assert (samba.data / "copy").read_bytes() == sent
        assert (tmp_path / "received").read_bytes() == sent
        assert log.sources() == {gateway.external_address}
        assert log.zero_logons() == 0
        (flow, *_) = (flow for flow in gateway.json("flows") if flow["protocol"] == "tcp")
        assert flow["remote"] == f"{topology.SERVER}:445"
        assert flow["remote_known_as"] == MAPPED
        assert gateway.json("status")["lan"]["mapped"] == [
            {"network": "192.168.77.0/24", "known_as": "10.77.1.0/24"}]
        # Fragments, and an error about a packet.
        client.machine.run("ping", "-c", "1", "-W", "5", "-s", "4000", MAPPED)
        assert refuses(client, MAPPED)
        # The map changes while it runs.
        networks(gateway, ["192.168.77.0/24 as 10.77.2.0/24"])
        gateway.vcgate("reload")
        answer = client.machine.run("ping", "-c", "1", "-W", "5", MAPPED, check=False).stdout
        assert "Packet filtered" in answer
        client.machine.ip("route", "add", "10.77.2.0/24", "dev", DEVICE)
        client.machine.run("wg", "set", DEVICE, "peer", gateway.public_key,
                           "allowed-ips", "10.77.2.0/24")
        client.machine.run("ping", "-c", "1", "-W", "5", "10.77.2.10")


def test_ipv6_is_mapped_too(lab, make_gateway):
    client = lab.client(1)
    gateway = make_gateway("vcgate", address6="fd00:77::2")
    gateway.write([])
    networks(gateway, NETWORKS)
    with lab.ipv6_on_the_lan(), home(client):
        gateway.up()
        connect(gateway, client)
        for size in (56, 4000):
            # The first long answer only shows the server the MTU of the tunnel.
            client.machine.run("ping", "-c", "3", "-i", "0.2", "-W", "5", "-s", size, MAPPED6)
        assert refuses(client, MAPPED6)
