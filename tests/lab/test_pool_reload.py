"""LAN addresses come and go while the endpoint runs: those of a pool, and those of single clients."""

import contextlib
import json
import socket

from scapy.layers.l2 import ARP, Ether
from scapy.sendrecv import sendp

from . import topology
from .callers import call, echo, listener, says
from .test_conflict import GATEWAY, STATION
from .test_reload import edit

FIRST, SECOND, THIRD, OWN, OTHER = (f"192.168.77.{n}" for n in (2, 30, 31, 50, 51))
SERVER = (topology.SERVER, 7777)


@contextlib.contextmanager
def connection(machine):
    with machine.entered():
        made = socket.socket()
    with made:
        made.settimeout(5)
        made.connect(SERVER)
        assert says(made, b"before") == b"before"
        yield made


def is_reset(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def lan_of(gateway, name):
    """The LAN addresses of a client's TCP flows that are not over."""
    return {flow["lan"].rsplit(":", 1)[0] for flow in gateway.json("flows")
            if flow["peer"] == name and flow["protocol"] == "tcp" and flow["state"] == "established"}


def is_answered(lab, address):
    """Whether a station on the LAN answers ARP for an address."""
    lab.server.ip("neigh", "flush", "all")
    lab.server.run("ping", "-c", "1", "-W", "1", address, check=False)
    return "lladdr" in lab.server.ip("neigh", "show", address).stdout


def test_addresses_of_a_pool_come_and_go(lab, start_gateway, tmp_path):
    """With one shard, peers have the addresses of the pool in turn."""
    clients = lab.clients(3)
    gateway = start_gateway(clients, address=[FIRST, SECOND], shards=1, nat={"log_file": "ports.jsonl"})
    with echo(lab.server, SERVER), contextlib.ExitStack() as stack:
        first, second, third = [stack.enter_context(connection(c.machine)) for c in clients]
        assert [lan_of(gateway, c.name) for c in clients] == [{FIRST}, {SECOND}, {FIRST}]
        sniffer = lab.probe.capture("br0", f"arp and arp[14:4] == {hex_of(THIRD)}", tmp_path / "announced")
        edit(gateway, f'"{SECOND}"', f'"{THIRD}"')
        assert gateway.vcgate("reload").stdout == "lan.address: changed\n"
        sniffer.wait_for_line(f"who-has {THIRD}.* tell {THIRD}")
        assert is_reset(second)
        assert says(first, b"after") == says(third, b"after") == b"after"
        assert is_answered(lab, THIRD) and not is_answered(lab, SECOND)
        with connection(clients[1].machine):
            assert lan_of(gateway, "user2") == {THIRD}
            (flow,) = (f for f in gateway.json("flows") if f["lan"].startswith(THIRD))
            assert "user2 " in gateway.vcgate("who", flow["lan"].rsplit(":", 1)[1]).stdout
    log = [json.loads(line) for line in (gateway.dir / "ports.jsonl").read_text().splitlines()]
    assert {THIRD, SECOND} <= {line.get("lan_address") for line in log}
    routes = gateway.machine.ip("route").stdout
    assert THIRD in routes and SECOND not in routes
    gateway.stop()
    assert THIRD not in gateway.machine.ip("route").stdout
    assert THIRD not in gateway.machine.ip("neigh", "show", "proxy").stdout


def hex_of(address):
    return "0x" + socket.inet_aton(address).hex()


def test_a_client_gets_an_address_of_its_own_and_loses_it(lab, start_gateway):
    """By a command, with a forward that follows it, and by a reload; it lasts across a kill."""
    first, second = lab.clients(2)
    gateway = start_gateway([first, second], shards=2)
    gateway.vcgate("forward", "add", "8443", f"{first.inner}:443")
    with echo(lab.server, SERVER), connection(first.machine) as old, connection(second.machine) as others:
        gateway.vcgate("peer", "set", "user1", f"lan_address={OWN}")
        assert is_reset(old)
        assert says(others, b"after") == b"after"
        with connection(first.machine) as new, listener(first.machine, (first.inner, 443)):
            (flow,) = (f for f in gateway.json("flows") if f["peer"] == "user1" and f["state"] == "established")
            assert flow["lan"] == f"{OWN}:{flow['client'].rsplit(':', 1)[1]}", "the port is kept"
            assert call(lab.server, (OWN, 8443))
            gateway.process.stop(9)
            gateway.up()
            assert says(new, b"after the kill") == says(others, b"after the kill") == b"after the kill"
            assert lan_of(gateway, "user1") == {OWN}
            # The other client takes it over.
            own = f'lan_address = "{OWN}"\n'
            edit(gateway, own, "")
            edit(gateway, 'name = "user2"\n', 'name = "user2"\n' + own)
            shown = gateway.vcgate("reload").stdout
            assert "peer user1: changed lan_address" in shown and "peer user2: changed lan_address" in shown
            assert is_reset(new) and is_reset(others)
        with connection(first.machine), connection(second.machine):
            assert (lan_of(gateway, "user1"), lan_of(gateway, "user2")) == ({FIRST}, {OWN})
        gateway.vcgate("peer", "set", "user2", "lan_address=")
        assert not is_answered(lab, OWN)
        assert OWN not in gateway.machine.ip("neigh", "show", "proxy").stdout


def test_a_taken_address_is_refused_and_nothing_changes(lab, start_gateway):
    first, second = lab.clients(2)
    gateway = start_gateway([first, second], own={"user1": OWN}, shards=1)
    gateway.vcgate("forward", "add", "8443", f"{first.inner}:443")
    before = gateway.config.read_text()
    with echo(lab.server, SERVER), connection(first.machine) as kept, lab.server_has(OTHER):
        refused = gateway.vcgate("peer", "set", "user1", f"lan_address={OTHER}", check=False)
        assert refused.returncode == 1
        assert f"{OTHER} is taken" in refused.stderr
        assert 'set lan_address of peer "user1" to a free one' in refused.stderr
        assert gateway.config.read_text() == before
        edit(gateway, f'"{FIRST}"', f'["{FIRST}", "{OTHER}"]')
        assert "lan.address: changed, but refused: the LAN address" in gateway.vcgate("reload", check=False).stdout
        assert says(kept, b"after") == b"after"
        assert lan_of(gateway, "user1") == {OWN}
        with listener(first.machine, (first.inner, 443)):
            assert call(lab.server, (OWN, 8443)), "the forward is as before"
    assert OTHER not in gateway.machine.ip("route").stdout


def test_a_conflict_about_a_further_address_is_defended_and_shown(lab, make_gateway, tmp_path):
    """The first address, one of the pool that a reload has added, and that of a client alone."""
    gateway = make_gateway("vcgate", own={"user1": OWN})
    gateway.start(lab.clients(2))
    edit(gateway, f'"{FIRST}"', f'["{FIRST}", "{SECOND}"]')
    gateway.vcgate("reload")
    status = {lan["address"]: lan["peer"] for lan in gateway.json("status")["lan"]["addresses"]}
    assert status == {FIRST: None, SECOND: None, OWN: "user1"}
    for address, remedy in ((SECOND, "set lan.address to a free one"),
                            (OWN, 'set lan_address of peer "user1" to a free one')):
        sniffer = lab.probe.capture("br0", f"arp and arp[14:4] == {hex_of(address)} and ether src {GATEWAY}",
                                    tmp_path / address)
        with lab.probe.entered():
            sendp(Ether(src=STATION, dst="ff:ff:ff:ff:ff:ff")
                  / ARP(op=1, hwsrc=STATION, psrc=address, pdst=address), iface="br0", count=3, verbose=False)
        sniffer.wait_for_line(f"who-has {address}.* tell {address}")
        gateway.process.wait_for_line(f"uses the LAN address {address}.*{remedy}")
        lan = gateway.json("status")["lan"]
        assert address in [conflict["address"] for conflict in lan["conflicts"]]
        assert [(a["address"], a["conflict"]) for a in lan["addresses"] if a["address"] == address] == [(address, True)]
    shown = gateway.vcgate("status").stdout
    assert "or as 2 further addresses" in shown
    with lab.server_has(OWN):
        found = json.loads(gateway.vcgate("doctor", "--json", check=False).stdout)
        (check,) = (check for check in found if check["name"] == "lan-addresses")
        assert check["verdict"] == "fail" and 'lan_address of peer "user1"' in check["meaning"] + str(check["remedy"])
    metrics = gateway.vcgate("metrics").stdout
    assert f'address="{OWN}"' in metrics
