"""Several addresses on the LAN: a pool that clients share, and an address that only one client has."""

import socket

import pytest

from . import smb, topology
from .callers import ask, call, listener
from .net import wait_for
from .samba import Samba
from .test_crafted import AMBIGUOUS, send
from .test_signing import log_on_again

POOL = ["192.168.77.2", "192.168.77.30-192.168.77.32"]
ADDRESSES = {"192.168.77.2", "192.168.77.30", "192.168.77.31", "192.168.77.32"}
OWN = "192.168.77.50"


def test_rfc4787_req2_each_client_has_one_address_of_the_pool(lab, start_gateway):
    clients = lab.clients(4)
    gateway = start_gateway(clients, address=POOL, shards=1, nat={"log_file": "ports.jsonl"})
    server = (topology.SERVER, 7)
    with listener(lab.server, server), listener(lab.server, server, socket.SOCK_DGRAM):
        seen = {}
        for client in clients:
            each = {call(client.machine, server) for _ in range(3)}
            each |= {ask(client.machine, server) for _ in range(3)}
            (seen[client.name],) = each
        assert set(seen.values()) == ADDRESSES
    for flow in gateway.json("flows"):
        address, port = flow["lan"].rsplit(":", 1)
        assert address == seen[flow["peer"]]
        assert f"{flow['peer']} " in gateway.vcgate("who", port).stdout
    gateway.stop()
    assert "192.168.77.31" not in gateway.machine.ip("route").stdout
    assert "192.168.77.31" not in gateway.machine.ip("neigh", "show", "proxy").stdout


def test_a_taken_address_of_a_pool_is_refused(lab, make_gateway):
    gateway = make_gateway(address=POOL)
    gateway.write([])
    with lab.server_has("192.168.77.31"):
        gateway.launch()
        assert gateway.process.wait() == 1
    said = gateway.process.text()
    assert "192.168.77.31" in said and "set [lan] address" in said
    assert "192.168.77.30" not in gateway.machine.ip("route").stdout


def test_a_client_keeps_its_ports_at_an_address_of_its_own(lab, start_gateway):
    clients = lab.clients(2)
    gateway = start_gateway(clients, own={"user1": OWN}, shards=2)
    server = (topology.SERVER, 7)
    with listener(lab.server, server):
        assert [call(client.machine, server) for client in clients] == [OWN, "192.168.77.2"]
    ports = {flow["client"].rsplit(":", 1)[1]: flow["lan"] for flow in gateway.json("flows")
             if flow["peer"] == "user1"}
    assert ports and all(lan == f"{OWN}:{port}" for port, lan in ports.items())


def signed(users, server, _gateway):
    """A further logon on a connection that signs."""
    first = smb.logon(users[0], server.address)
    yield
    log_on_again(first, "user3")


def from_before(users, server, gateway):
    """A logon on a connection that the run before did not watch."""
    first = smb.logon(users[0], server.address)
    yield
    assert gateway.stop() == 0
    gateway.hook = "assign"
    gateway.write(users)
    gateway.up()
    smb.authenticate(first, users[0])


def crafted(name):
    def send_it(users, server, _gateway):
        first = smb.logon(users[0], server.address, vc=1)
        yield
        send(first, name)
    return send_it


UNCURED = {
    "further logon, signed": (signed, "mandatory", {}),
    "connection from before the start": (from_before, "auto", {"hook": "off", "unreadable": "pass"}),
    **{name: (crafted(name), "auto", {"unreadable": "pass"}) for name in AMBIGUOUS},
}
"""The rows of the table in docs/smb.md. Under the encryption of the UNIX extensions, no client at hand
sends a logon with VcNumber 0."""


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("name", UNCURED)
def test_a_logon_that_is_not_changed_cuts_others_off_only_at_a_shared_address(lab, start_gateway, name, own):
    logon, signing, options = UNCURED[name]
    users = lab.clients(2)
    server = Samba(lab.server, topology.SERVER, signing=signing)
    try:
        gateway = start_gateway(users, own={"user1": OWN} if own else {}, **options)
        acts = logon(users, server, gateway)
        next(acts)
        other = smb.logon(users[1], server.address, vc=1)
        smb.put(other, "mine", b"still here")
        log = server.mark()
        next(acts, None)
        wait_for("the server to see VcNumber 0", lambda: log.zero_logons() > 0)
        if own:
            assert smb.get(other, "mine") == b"still here"
            assert log.kills() == []
        else:
            wait_for("the other user to be cut off", log.kills)
        assert "lan_address" in gateway.vcgate("smb").stdout
        if logon is signed:
            assert "lan_address" in gateway.process.text()
    finally:
        server.stop()
