"""Access rules, seen by real clients: `reach`, client to client, sites, destinations
without translation, forwards, limits, and the log of who had which ports."""

import contextlib
import json
import re
import socket
import time

import pytest

from . import hoststate, topology
from .callers import ask, call, is_prohibited, listener
from .net import wait_for

SITE = "10.20.0.5"
OWN = "192.168.77.2"
OWN6 = "fd00:77::2"


@pytest.fixture
def start(make_gateway):
    """A function that starts vcgate with more in its file: `extra` at the end, `peers` by client."""
    def start(clients, extra="", peers=None, **options):
        gateway = make_gateway("vcgate", **options)
        gateway.write(clients)
        text = gateway.config.read_text()
        for name, lines in (peers or {}).items():
            text = re.sub(rf'name = "{name}"\n', lambda found: found[0] + lines + "\n", text)
        gateway.config.write_text(text + extra)
        gateway.up()
        for client in clients:
            client.connect(gateway)
        return gateway

    return start


def refused(gateway, name, what):
    (peer,) = [peer for peer in gateway.json("status")["peers"] if peer["name"] == name]
    return peer[f"{what}_packets"]


class TestReach:
    def test_a_client_reaches_what_its_rules_name_and_is_told_of_the_rest(self, lab, start):
        first, second = clients = lab.clients(2)
        gateway = start(clients, peers={"user1": f'reach = ["{topology.SERVER}/32:tcp/7777"]'})
        with listener(lab.server, (topology.SERVER, 7777)), listener(lab.server, (topology.SERVER, 7778)):
            assert call(first.machine, (topology.SERVER, 7777)) == OWN
            assert is_prohibited(first.machine.ping(topology.SERVER))
            with pytest.raises(OSError, match="No route to host"):
                call(first.machine, (topology.SERVER, 7778))
            assert call(second.machine, (topology.SERVER, 7778)) == OWN
        assert refused(gateway, "user1", "denied") >= 2
        assert refused(gateway, "user2", "denied") == 0

    def test_rules_hold_for_fragments(self, lab, start, tmp_path):
        (client,) = clients = lab.clients(1)
        start(clients, peers={"user1": f'reach = ["{topology.SERVER}/32:udp/7777"]'})
        sniffed = lab.server.capture("lan", f"src {OWN}", tmp_path / "sniffed")
        with pytest.raises(OSError, match="No route to host"):
            ask(client.machine, (topology.SERVER, 7778), bytes(4000))
        # The allowed one comes last: what was to be seen of the other had its time.
        with listener(lab.server, (topology.SERVER, 7777), socket.SOCK_DGRAM):
            assert ask(client.machine, (topology.SERVER, 7777), bytes(4000)) == OWN
        wait_for("the three fragments", lambda: sniffed.text().count(f"IP {OWN}") >= 3)
        sniffed.stop()
        assert sniffed.text().count(f"IP {OWN}") == 3 and "7778" not in sniffed.text(), sniffed.text()

    def test_silence_by_configuration(self, lab, start):
        (client,) = clients = lab.clients(1)
        start(clients, peers={"user1": "reach = []"}, on_deny="drop")
        shown = client.machine.ping(topology.SERVER)
        assert shown.returncode == 1 and not is_prohibited(shown), shown.stdout

    def test_a_site_and_the_hosts_behind_it(self, lab, start):
        (client,) = clients = lab.clients(1)
        peers = {"user1": f'reach = ["{topology.SERVER}/32:7777"]'}
        gateway = start(clients, peers=peers)
        gateway.machine.run("wg", "set", gateway.name, "peer", client.keys.public,
                            "allowed-ips", f"{client.inner}/32,10.20.0.0/16")
        client.machine.ip("address", "add", f"{SITE}/32", "dev", "lo")
        try:
            with listener(lab.server, (topology.SERVER, 7777)):
                assert call(client.machine, (topology.SERVER, 7777), source=SITE) == OWN
            assert is_prohibited(client.machine.ping(topology.SERVER, "-I", SITE))
        finally:
            client.machine.ip("address", "delete", f"{SITE}/32", "dev", "lo")


class TestMeeting:
    def test_clients_do_not_meet_unless_it_is_said(self, lab, start):
        first, second = clients = lab.clients(2)
        start(clients)
        assert is_prohibited(first.machine.ping(second.inner))

    def test_client_to_client(self, lab, start):
        first, second = clients = lab.clients(2)
        start(clients, client_to_client=True)
        assert "ttl=63" in first.machine.ping(second.inner).stdout
        assert first.machine.ping(second.inner, "-s", "4000").returncode == 0
        shown = first.machine.ping(second.inner, "-t", "1")
        assert re.search(rf"From {topology.TUNNEL} .*Time to live exceeded", shown.stdout), shown.stdout
        with listener(second.machine, (second.inner, 7777)):
            assert call(first.machine, (second.inner, 7777)) == first.inner

    def test_rules_hold_between_clients(self, lab, start):
        first, second = clients = lab.clients(2)
        peers = {"user1": f'reach = ["{second.inner}/32:tcp/7777"]', "user2": "reach = []"}
        start(clients, peers=peers, client_to_client=True)
        with listener(second.machine, (second.inner, 7777)), listener(first.machine, (first.inner, 7777)):
            assert call(first.machine, (second.inner, 7777)) == first.inner
            with pytest.raises(OSError, match="No route to host"):
                call(second.machine, (first.inner, 7777))
        assert is_prohibited(first.machine.ping(second.inner))


class Side:
    """One address family of the lab, with the LAN address that its clients share."""

    def __init__(self, address):
        self.ipv6 = address in (OWN6, "auto6")
        self.auto = address.startswith("auto")
        if self.ipv6:
            self.options = {"address6": address.removesuffix("6") if self.auto else address}
            self.own, self.server, self.host = OWN6, topology.SERVER6, topology.GATEWAY_LAN6
            self.tunnel, self.clients, self.lan = topology.TUNNEL6, "fd00:8::/64", "fd00:77::/64"
            self.branch, self.branches = "fd00:1::5", "fd00:1::/32"
            self.no_hop = "Time exceeded: Hop limit"
        else:
            self.options = {"address": address}
            self.own, self.server, self.host = OWN, topology.SERVER, topology.GATEWAY_LAN
            self.tunnel, self.clients, self.lan = topology.TUNNEL, "10.8.0.0/24", "192.168.77.0/24"
            self.branch, self.branches = "10.1.0.5", "10.1.0.0/16"
            self.no_hop = "Time to live exceeded"
        self.external_address = self.host if self.auto else self.own

    def inner(self, client):
        return client.inner6 if self.ipv6 else client.inner

    def at(self, address, port):
        """As files and commands write it."""
        return f"[{address}]:{port}" if self.ipv6 else f"{address}:{port}"

    def forward(self, port, client, to):
        return f'[[forward]]\nlan_port = {port}\nto = "{self.at(self.inner(client), to)}"\n'


@pytest.fixture(params=[OWN, "auto", OWN6, "auto6"])
def side(request, lab, make_gateway):
    side = Side(request.param)
    with lab.ipv6_on_the_lan() if side.ipv6 else contextlib.nullcontext():
        yield side


@pytest.fixture
def branch(lab, side):
    """A network beyond the server, whose hosts have routes to the clients' own addresses."""
    lab.server.ip("address", "add", side.branch, "dev", "lo")
    lab.server.ip("route", "add", side.clients, "via", side.host)
    yield side.branch
    lab.server.ip("route", "delete", side.clients)
    lab.server.ip("address", "delete", side.branch, "dev", "lo")


def test_rfc6888_req6_chosen_destinations_see_the_client_itself(lab, branch, start, side):
    (client,) = clients = lab.clients(1)
    extra = f'[nat]\nno_nat = ["{side.branches}"]\n'
    reach = f'reach = ["{side.lan}", "{side.branches}"]'
    gateway = start(clients, extra, {"user1": reach}, **side.options)
    lab.gateway.ip("route", "add", side.branches, "via", side.server)
    client.machine.run("wg", "set", client.device.name, "peer", gateway.public_key, "allowed-ips",
                       f"10.8.0.0/24,{side.clients},{side.lan},{side.branches}")
    client.machine.ip("route", "replace", side.branches, "dev", client.device.name)
    inner = side.inner(client)
    with listener(lab.server, (side.server, 7777)), listener(lab.server, (branch, 7777)), \
            listener(lab.server, (branch, 7777), socket.SOCK_DGRAM):
        assert call(client.machine, (branch, 7777)) == inner
        assert ask(client.machine, (branch, 7777)) == inner
        assert call(client.machine, (side.server, 7777)) == side.external_address
    # IPv6's first answer is cut for the server's own MTU; Packet Too Big reports the tunnel's.
    assert client.machine.ping(branch, "-s", "4000", "-c", "3").returncode == 0
    shown = client.machine.ping(branch, "-t", "1")
    assert re.search(rf"From {side.tunnel} .*{side.no_hop}", shown.stdout), shown.stdout
    # They may begin too, but only they.
    assert lab.server.ping(inner, "-I", branch).returncode == 0
    assert lab.server.ping(inner, "-I", side.server).returncode == 1
    assert gateway.stop() == 0


def test_forwards_and_untranslated_routes_are_undone(lab, make_gateway, side):
    before = hoststate.of(lab.gateway)
    clients = lab.clients(1)
    gateway = make_gateway("vcgate", **side.options)
    gateway.write(clients)
    extra = f'[nat]\nno_nat = ["{side.branches}"]\n' + side.forward(8443, clients[0], 443)
    gateway.config.write_text(gateway.config.read_text() + extra)
    gateway.up()
    routes = hoststate.of(lab.gateway)["routes -6" if side.ipv6 else "routes -4"]
    assert any(side.clients in line for line in routes), routes
    assert gateway.stop() == 0, gateway.process.text()
    assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


def test_forwards_come_and_go_live(lab, start, side):
    first, second = clients = lab.clients(2)
    gateway = start(clients, side.forward(8443, first, 443), {"user1": "reach = []"}, **side.options)
    with listener(first.machine, (side.inner(first), 443)), \
            listener(second.machine, (side.inner(second), 53), socket.SOCK_DGRAM):
        assert call(lab.server, (side.external_address, 8443)) == side.server
        if not side.auto:  # hairpin: the client's own address never shows
            assert call(second.machine, (side.own, 8443)) == side.own
        gateway.vcgate("forward", "add", "udp/5353", side.at(side.inner(second), 53))
        assert ask(lab.server, (side.external_address, 5353)) == side.server
        shown = json.loads(gateway.vcgate("forward", "list", "--json").stdout)
        assert [(f["protocol"], f["lan_port"], f["peer"]) for f in shown] == [
            ("tcp", 8443, "user1"), ("udp", 5353, "user2")]
        gateway.vcgate("forward", "remove", "8443")
        with pytest.raises(OSError):
            call(lab.server, (side.external_address, 8443))
    to = side.at(side.inner(first), 53)
    again = gateway.vcgate("forward", "add", "udp/5353", to, check=False)
    assert again.returncode == 1 and "choose another lan_port" in again.stderr, again.stderr


@pytest.mark.parametrize("side", [OWN6, "auto6"], indirect=True)
def test_one_port_leads_to_a_client_in_both_families(lab, start, side):
    (client,) = clients = lab.clients(1)
    other = Side("auto" if side.auto else OWN)
    gateway = start(clients, other.forward(8443, client, 443) + '[nat]\nlog_file = "ports.jsonl"\n',
                    **other.options, **side.options)
    gateway.vcgate("forward", "add", "8443", side.at(client.inner6, 443))
    for family in (side, other):
        with listener(client.machine, (family.inner(client), 443)):
            assert call(lab.server, (family.external_address, 8443)) == family.server
    shown = gateway.vcgate("who", "8443").stdout
    for family in (side, other):
        assert f"user1 ({family.inner(client)}) has had since " in shown, shown
        assert f"tcp port 8443 of {family.external_address}\n" in shown, shown
    gateway.vcgate("forward", "remove", "8443")
    for family in (side, other):
        with pytest.raises(OSError):
            call(lab.server, (family.external_address, 8443))


def test_a_port_in_use_is_not_taken_away(lab, start):
    (client,) = clients = lab.clients(1)
    gateway = start(clients)
    with listener(lab.server, (topology.SERVER, 7777), socket.SOCK_DGRAM):
        ask(client.machine, (topology.SERVER, 7777))
    (port,) = {flow["lan"].split(":")[1] for flow in gateway.json("flows") if flow["protocol"] == "udp"}
    before = gateway.config.read_text()
    taken = gateway.vcgate("forward", "add", f"udp/{port}", f"{client.inner}:53", check=False)
    assert taken.returncode == 1
    assert "in use by a client's flow" in taken.stderr and "choose another" in taken.stderr
    assert gateway.config.read_text() == before


def test_rfc6888_req4_a_client_at_its_limit_is_told_and_nobody_else_feels_it(lab, start):
    first, second = clients = lab.clients(2)
    gateway = start(clients, "[nat.limits]\nsessions = 20\n")
    with first.machine.entered():
        flood = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
    with listener(lab.server, (topology.SERVER, 7777), socket.SOCK_DGRAM), contextlib.ExitStack() as stack:
        errors = 0
        for caller in map(stack.enter_context, flood):
            caller.settimeout(5)
            caller.connect((topology.SERVER, 7777))
            caller.send(b"?")
            try:
                caller.recv(100)
            except OSError as error:
                assert error.strerror == "No route to host", error
                errors += 1
        assert errors >= 20
        assert ask(second.machine, (topology.SERVER, 7777)) == OWN
    assert refused(gateway, "user1", "limited") == errors
    assert refused(gateway, "user2", "limited") == 0
    assert gateway.json("status")["drops"]["nat_sessions"] == errors


@pytest.mark.parametrize("side", [OWN, OWN6], indirect=True)
def test_rfc6888_req12_who_had_a_port(lab, start, side):
    first, second = clients = lab.clients(2)
    gateway = start(clients, '[nat]\nlog_file = "ports.jsonl"\n', **side.options)
    with listener(lab.server, (side.server, 7777), socket.SOCK_DGRAM):
        for client in clients:
            ask(client.machine, (side.server, 7777))
    ports = {flow["peer"]: flow["lan"].rpartition(":")[2]
             for flow in gateway.json("flows") if flow["protocol"] == "udp"}
    log = (gateway.dir / "ports.jsonl").read_text()
    assert side.server not in log and "7777" not in log
    for client in clients:
        shown = gateway.vcgate("who", ports[client.name]).stdout
        assert shown.startswith(f"{client.name} ({side.inner(client)}) has had since "), shown
    time.sleep(1.1)
    assert gateway.stop() == 0
    # It answers from the file when nothing runs.
    nobody = gateway.vcgate("who", ports["user1"], check=False)
    assert nobody.returncode == 1 and "--at" in nobody.stderr
    given = next(json.loads(line)["time"] for line in log.splitlines() if '"user2"' in line)
    (holder,) = json.loads(gateway.vcgate("who", ports["user2"], "--at", given, "--json").stdout)
    assert (holder["peer"], holder["client"]) == ("user2", side.inner(second))
    assert holder["lan_address"] == side.own and holder["since"] == given and holder["until"]
