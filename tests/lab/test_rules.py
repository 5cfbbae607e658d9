"""What each client may reach, seen by real clients: rules, clients that meet, sites, destinations
without translation, forwards, limits, and the log of who had which ports."""

import contextlib
import json
import re
import socket
import threading
import time

import pytest

from . import hoststate, topology
from .net import wait_for

BRANCH = "10.1.0.5"
SITE = "10.20.0.5"
OWN = "192.168.77.2"


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


@contextlib.contextmanager
def listener(machine, address, kind=socket.SOCK_STREAM):
    """A server that tells each caller which address it sees."""
    with machine.entered():
        server = socket.socket(socket.AF_INET, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(address)
    if kind == socket.SOCK_STREAM:
        server.listen()

    def serve():
        with contextlib.suppress(OSError):
            while kind == socket.SOCK_DGRAM:
                _, caller = server.recvfrom(5000)
                if not caller:
                    return  # shut down
                server.sendto(caller[0].encode(), caller)
            while True:
                connection, caller = server.accept()
                with connection:
                    connection.sendall(caller[0].encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def call(machine, address, source=None):
    """The address that a TCP server sees of this machine."""
    with machine.entered():
        caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with caller:
        caller.settimeout(5)
        if source:
            caller.bind((source, 0))
        caller.connect(address)
        return caller.recv(100).decode()


def ask(machine, address, payload=b"?"):
    """The same over UDP."""
    with machine.entered():
        caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with caller:
        caller.settimeout(5)
        caller.connect(address)
        caller.send(payload)
        return caller.recv(100).decode()


def refused(gateway, name, what):
    (peer,) = [peer for peer in gateway.json("status")["peers"] if peer["name"] == name]
    return peer[f"{what}_packets"]


def is_prohibited(ping):
    return "Packet filtered" in ping.stdout


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
        start(clients, peers={"user1": "reach = []"}, deny="silent")
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

    def test_clients_that_may_meet(self, lab, start):
        first, second = clients = lab.clients(2)
        start(clients, clients_may_meet=True)
        assert "ttl=63" in first.machine.ping(second.inner).stdout
        assert first.machine.ping(second.inner, "-s", "4000").returncode == 0
        shown = first.machine.ping(second.inner, "-t", "1")
        assert re.search(rf"From {topology.TUNNEL} .*Time to live exceeded", shown.stdout), shown.stdout
        with listener(second.machine, (second.inner, 7777)):
            assert call(first.machine, (second.inner, 7777)) == first.inner

    def test_rules_hold_between_clients(self, lab, start):
        first, second = clients = lab.clients(2)
        peers = {"user1": f'reach = ["{second.inner}/32:tcp/7777"]', "user2": "reach = []"}
        start(clients, peers=peers, clients_may_meet=True)
        with listener(second.machine, (second.inner, 7777)), listener(first.machine, (first.inner, 7777)):
            assert call(first.machine, (second.inner, 7777)) == first.inner
            with pytest.raises(OSError, match="No route to host"):
                call(second.machine, (first.inner, 7777))
        assert is_prohibited(first.machine.ping(second.inner))


@pytest.fixture
def branch(lab):
    """A network behind the server, whose hosts know the way to the clients' own addresses."""
    lab.server.ip("address", "add", f"{BRANCH}/32", "dev", "lo")
    lab.server.ip("route", "add", "10.8.0.0/24", "via", topology.GATEWAY_LAN)
    yield
    lab.server.ip("route", "delete", "10.8.0.0/24")
    lab.server.ip("address", "delete", f"{BRANCH}/32", "dev", "lo")


@pytest.mark.parametrize("address", [OWN, "auto"])
def test_rfc6888_req6_chosen_destinations_see_the_client_itself(lab, branch, start, address):
    (client,) = clients = lab.clients(1)
    extra = '[nat]\nuntranslated = ["10.1.0.0/16"]\n'
    reach = 'reach = ["192.168.77.0/24", "10.1.0.0/16"]'
    gateway = start(clients, extra, {"user1": reach}, address=address)
    lab.gateway.ip("route", "add", "10.1.0.0/16", "via", topology.SERVER)
    client.machine.run("wg", "set", client.device.name, "peer", gateway.public_key,
                       "allowed-ips", "10.8.0.0/24,192.168.77.0/24,10.1.0.0/16")
    client.machine.ip("route", "replace", "10.1.0.0/16", "dev", client.device.name)
    with listener(lab.server, ("0.0.0.0", 7777)), listener(lab.server, (BRANCH, 7777), socket.SOCK_DGRAM):
        assert call(client.machine, (BRANCH, 7777)) == client.inner
        assert ask(client.machine, (BRANCH, 7777)) == client.inner
        assert call(client.machine, (topology.SERVER, 7777)) == gateway.seen_as
    assert client.machine.ping(BRANCH, "-s", "4000").returncode == 0
    shown = client.machine.ping(BRANCH, "-t", "1")
    assert re.search(rf"From {topology.TUNNEL} .*Time to live exceeded", shown.stdout), shown.stdout
    # They may begin too, but only they.
    assert lab.server.ping(client.inner, "-I", BRANCH).returncode == 0
    assert lab.server.ping(client.inner, "-I", topology.SERVER).returncode == 1
    assert gateway.stop() == 0


@pytest.mark.parametrize("address", [OWN, "auto"])
def test_forwards_and_untranslated_routes_are_undone(lab, make_gateway, address):
    before = hoststate.of(lab.gateway)
    clients = lab.clients(1)
    gateway = make_gateway("vcgate", address=address)
    gateway.write(clients)
    extra = '[nat]\nuntranslated = ["10.1.0.0/16"]\n[[forward]]\nlan_port = 8443\nto = "10.8.0.11:443"\n'
    gateway.config.write_text(gateway.config.read_text() + extra)
    gateway.up()
    assert any("10.8.0.0/24" in line for line in hoststate.of(lab.gateway)["routes -4"])
    assert gateway.stop() == 0, gateway.process.text()
    assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


@pytest.mark.parametrize("address", [OWN, "auto"])
def test_forwards_come_and_go_live(lab, start, address):
    first, second = clients = lab.clients(2)
    extra = f'[[forward]]\nlan_port = 8443\nto = "{first.inner}:443"\n'
    gateway = start(clients, extra, {"user1": "reach = []"}, address=address)
    with listener(first.machine, (first.inner, 443)), \
            listener(second.machine, (second.inner, 53), socket.SOCK_DGRAM):
        assert call(lab.server, (gateway.seen_as, 8443)) == topology.SERVER
        if address == OWN:  # hairpin: the client's own address never shows
            assert call(second.machine, (OWN, 8443)) == OWN
        gateway.vcgate("forward", "add", "udp/5353", f"{second.inner}:53")
        assert ask(lab.server, (gateway.seen_as, 5353)) == topology.SERVER
        shown = json.loads(gateway.vcgate("forward", "list", "--json").stdout)
        assert [(f["proto"], f["lan_port"], f["peer"]) for f in shown] == [
            ("tcp", 8443, "user1"), ("udp", 5353, "user2")]
        gateway.vcgate("forward", "remove", "8443")
        with pytest.raises(OSError):
            call(lab.server, (gateway.seen_as, 8443))
    again = gateway.vcgate("forward", "add", "udp/5353", f"{first.inner}:53", check=False)
    assert again.returncode == 1 and "choose another lan_port" in again.stderr, again.stderr


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


def test_rfc6888_req13_who_had_a_port(lab, start):
    first, second = clients = lab.clients(2)
    gateway = start(clients, '[nat]\nlog_file = "ports.jsonl"\n')
    with listener(lab.server, (topology.SERVER, 7777), socket.SOCK_DGRAM):
        for client in clients:
            ask(client.machine, (topology.SERVER, 7777))
    ports = {flow["client"]: flow["lan"].split(":")[1]
             for flow in gateway.json("flows") if flow["protocol"] == "udp"}
    log = (gateway.dir / "ports.jsonl").read_text()
    assert topology.SERVER not in log and "7777" not in log
    for client in clients:
        shown = gateway.vcgate("who", ports[client.name]).stdout
        assert shown.startswith(f"{client.name} ({client.inner}) has had since "), shown
    time.sleep(1.1)
    assert gateway.stop() == 0
    # It answers from the file when nothing runs.
    nobody = gateway.vcgate("who", ports["user1"], check=False)
    assert nobody.returncode == 1 and "--at" in nobody.stderr
    given = next(json.loads(line)["time"] for line in log.splitlines() if '"user2"' in line)
    (holder,) = json.loads(gateway.vcgate("who", ports["user2"], "--at", given, "--json").stdout)
    assert (holder["peer"], holder["client"]) == ("user2", second.inner)
    assert holder["lan_address"] == OWN and holder["since"] == given and holder["until"]
