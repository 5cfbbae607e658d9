"""The tunnel as standard clients use it: roaming, pre-shared keys, IPv6 outside, keepalive."""

import os

import pytest

from . import smb, topology
from .net import run, wait_for

SIZE = 3_000_000
ROAMED = "203.0.113.201"


def assert_works(client, samba):
    """A ping and a copy both ways."""
    client.machine.reaches(topology.SERVER)
    data = os.urandom(SIZE)
    connection = smb.logon(client, samba.address)
    smb.put(connection, "copy", data)
    assert smb.digest(smb.get(connection, "copy")) == smb.digest(data)


def after_half(data, event):
    """A reader of `data` for `putFile` that calls `event` once, half-way through."""
    position = 0
    due = True

    def read(size):
        nonlocal position, due
        if due and position > len(data) / 2:
            due = False
            event()
        part = data[position:position + size]
        position += len(part)
        return part

    return read


def test_a_client_that_changes_its_address_in_mid_upload_keeps_its_copy(lab, start_gateway, samba):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    data = os.urandom(SIZE)
    connection = smb.logon(client, samba.address)
    connection.putFile(smb.SHARE, "copy", after_half(data, lambda: client.roam(f"{ROAMED}/24")))
    assert smb.digest((samba.data / "copy").read_bytes()) == smb.digest(data)
    assert gateway.wg("endpoints")[client.keys.public].startswith(ROAMED)


def test_a_client_that_changes_its_address_in_mid_download_keeps_its_copy(lab, start_gateway, samba):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    data = os.urandom(SIZE)
    (samba.data / "copy").write_bytes(data)
    connection = smb.logon(client, samba.address)
    received = bytearray()

    def take(part):
        if len(received) <= SIZE / 2 < len(received) + len(part):
            client.roam(f"{ROAMED}/24")
        received.extend(part)

    connection.getFile(smb.SHARE, "copy", take)
    assert smb.digest(received) == smb.digest(data)
    assert gateway.wg("endpoints")[client.keys.public].startswith(ROAMED)


def test_a_client_with_a_preshared_key(lab, start_gateway, samba):
    (client,) = clients = lab.clients(1)
    client.psk = run("wg", "genpsk").stdout.strip()
    gateway = start_gateway(clients)
    assert_works(client, samba)
    assert gateway.wg("preshared-keys")[client.keys.public] == client.psk


def test_a_client_with_a_wrong_preshared_key_is_not_let_in(lab, start_gateway):
    clients = lab.clients(2)
    clients[0].psk = run("wg", "genpsk").stdout.strip()
    gateway = start_gateway(clients, connect=False)
    clients[0].psk = run("wg", "genpsk").stdout.strip()
    with pytest.raises(TimeoutError):
        clients[0].connect(gateway, seconds=3)
    clients[1].connect(gateway)
    assert gateway.wg("latest-handshakes")[clients[0].keys.public] == "0"


def test_ipv6_outside(lab, start_gateway, samba):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    client.connect(gateway, endpoint=gateway.endpoint6)
    assert_works(client, samba)
    assert gateway.wg("endpoints")[client.keys.public].startswith("[2001:db8:113:")


def test_the_answer_comes_from_the_address_written_to(lab, start_gateway, samba, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    capture = client.machine.capture(
        "wan", f"udp and src host {topology.GATEWAY_WAN}", tmp_path / "capture")
    client.connect(gateway, endpoint=gateway.endpoint_second)
    assert_works(client, samba)
    assert client.endpoint_seen() == topology.GATEWAY_WAN_SECOND
    capture.stop()
    assert " IP " not in capture.text(), "datagrams from the other address"


def test_persistent_keepalive_of_the_client(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, connect=False)
    client.connect(gateway, keepalive=1)

    def received():
        return int(gateway.wg("transfer")[client.keys.public].split()[0])

    before = received()
    wait_for("two keepalives", lambda: received() >= before + 2 * 32)


def test_persistent_keepalive_of_the_gateway(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    client.keepalive_of_gateway = 1
    gateway = start_gateway(clients)

    def received():
        (transfer,) = client.device.show("transfer").values()
        return int(transfer.split()[0])

    before = received()
    wait_for("two keepalives", lambda: received() >= before + 2 * 32)
    assert gateway.wg("persistent-keepalive")[client.keys.public] == "1"
