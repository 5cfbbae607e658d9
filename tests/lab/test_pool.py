"""Several addresses on the LAN: a pool that clients share, and an address that only one client has."""

import socket

import pytest

from . import smb, topology
from .callers import ask, call, listener
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


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_signed_logon_cuts_others_off_only_at_a_shared_address(lab, start_gateway, strict_samba, own):
    """A further logon on a connection that signs cannot be rewritten."""
    users = lab.clients(2)
    gateway = start_gateway(users, own={"user1": OWN} if own else {})
    other = smb.logon(users[1], strict_samba.address)
    first = smb.logon(users[0], strict_samba.address)
    smb.put(other, "mine", b"still here")
    log = strict_samba.mark()
    log_on_again(first, "user3")
    assert log.zero_logons() > 0
    assert (log.kills() == []) == own
    if own:
        assert smb.get(other, "mine") == b"still here"
    assert "lan_address" in gateway.vcgate("smb").stdout
    assert "lan_address" in gateway.process.text()
