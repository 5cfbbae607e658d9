"""vcgate stops and starts again: connections of its clients continue if the flows were kept."""

import contextlib
import datetime
import pathlib
import random
import signal
import socket
import threading

import pytest

from . import smb, topology
from .net import wait_for

PORT = 7000
PIECE = 1 << 16
SIZE = 500 * PIECE
"""More than sockets hold."""
SHARDS = 2
PATIENCE = 60
"""In seconds. A WireGuard client tries a new handshake after 15 of silence."""


class Way:
    """One direction of a copy. The receiver takes one piece and then waits for a command."""

    def __init__(self, source, target):
        self.sent = random.randbytes(SIZE)
        self.arrived = bytearray()
        self.failures = []
        self._source, self._target = source, target
        self._go_on = threading.Event()
        self._threads = [threading.Thread(target=self._try, args=(work,), daemon=True)
                         for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        wait_for("the copy to be under way", lambda: self.arrived or self.failures)

    def go_on(self):
        self._go_on.set()

    def finish(self):
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()
        assert self.failures == []
        assert self.arrived == self.sent

    def _send(self):
        self._source.sendall(self.sent)

    def _receive(self):
        while len(self.arrived) < SIZE:
            piece = self._target.recv(PIECE)
            if not piece:
                raise ConnectionError("ended early")
            self.arrived += piece
            self._go_on.wait()

    def _try(self, work):
        try:
            work()
        except OSError as error:
            self.failures.append(error)


class Copy:
    """A client's connection to the server, on which both send all the time."""

    def __init__(self, lab, client, port):
        with lab.server.entered():
            listener = socket.create_server((topology.SERVER, port))
        with listener, client.machine.entered():
            self.near = socket.create_connection((topology.SERVER, port), PATIENCE)
            self.far, (_, self.lan_port) = listener.accept()
        self.far.settimeout(PATIENCE)
        self.up, self.down = self.ways = Way(self.near, self.far), Way(self.far, self.near)

    def close(self):
        for way in self.ways:
            way.go_on()
        for end in (self.near, self.far):
            with end, contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def clients(lab):
    """Two, which belong to two shards."""
    return lab.clients(2)


@pytest.fixture
def gateway(start_gateway, clients):
    return start_gateway(clients, "vcgate", shards=SHARDS, nat={"log_file": "ports.jsonl"})


@pytest.fixture
def copies(lab, gateway, clients):
    """A copy of each client, under way."""
    made = [Copy(lab, client, PORT + client.number) for client in clients]
    yield made
    for copy in made:
        copy.close()


def stop(gateway):
    """The endpoint ends; the file with its flows."""
    assert gateway.stop() == 0, gateway.process.text()
    return kept(gateway)


def lose_the_device(gateway):
    """The endpoint fails; the file with its flows."""
    gateway.machine.ip("link", "delete", gateway.name)
    assert gateway.process.wait() == 1, gateway.process.text()
    return kept(gateway)


def kill(gateway):
    """The process is killed; the file with its flows."""
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    return kept(gateway)


def kept(gateway):
    (file,) = pathlib.Path("/run/vcgate").glob(f"{gateway.name}.*.flows")
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def go_on(copies):
    """Packets that are sent now get lost."""
    for copy in copies:
        copy.up.go_on()
        copy.down.go_on()


def warnings(gateway):
    """All but the one that the run before was killed."""
    lines = gateway.process.text().splitlines()
    return [line for line in lines if "WARN" in line and "an earlier run was killed" not in line]


@pytest.mark.parametrize("end", [stop, lose_the_device, kill])
def test_copies_survive_a_restart(gateway, clients, copies, end):
    end(gateway)
    go_on(copies)
    gateway.up()
    for copy in copies:
        copy.up.finish()
        copy.down.finish()
    # Each has the port that it had, and the log of the new run says whose it is.
    for client, copy in zip(clients, copies):
        assert gateway.tcp_state(copy.lan_port) == "established"
        assert client.name in gateway.vcgate("who", copy.lan_port).stdout
    assert warnings(gateway) == []


def test_copies_survive_it_when_a_peer_of_before_is_gone(lab, start_gateway, clients):
    """Peers are assigned to shards in turn; removing one does not move the others."""
    gone = lab.client(3)
    gateway = start_gateway([gone, *clients], "vcgate", shards=SHARDS)
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(contextlib.closing(Copy(lab, client, PORT + client.number)))
                  for client in clients]
        gateway.vcgate("peer", "remove", gone.name)
        stop(gateway)
        go_on(copies)
        gateway.up()
        for copy in copies:
            copy.up.finish()
            copy.down.finish()
    assert warnings(gateway) == []


@pytest.mark.parametrize("end", [stop, kill])
def test_copies_survive_it_with_another_number_of_shards(gateway, clients, copies, end):
    end(gateway)
    go_on(copies)
    gateway.interface["shards"] = SHARDS + 1
    gateway.write(clients)
    gateway.up()
    assert gateway.json("status")["shards"] == SHARDS + 1
    for copy in copies:
        copy.up.finish()
        copy.down.finish()
        assert gateway.tcp_state(copy.lan_port) == "established"
    assert warnings(gateway) == []


@pytest.mark.parametrize("end", [stop, kill])
def test_a_logon_on_a_connection_from_before_cuts_nobody_off(gateway, clients, samba, end):
    """The hook continues where it was: later copies carry the number of the flow as well."""
    first, second = (smb.logon(client, samba.address, timeout=PATIENCE) for client in clients)
    smb.put(second, "user2.bin", b"mine")
    log = samba.mark()
    end(gateway)
    gateway.up()
    smb.authenticate(first, clients[0])
    assert smb.get(second, "user2.bin") == b"mine"
    assert log.zero_logons() == 0
    assert log.kills() == []
    counted = gateway.json("smb")
    print(counted)
    assert counted["zero_seen"] == counted["rewritten"] > 0
    assert warnings(gateway) == []


def test_without_their_flows_they_do_not(gateway, copies):
    file = stop(gateway)
    go_on(copies)
    file.unlink()
    gateway.up()
    for copy in copies:
        wait_for("the copy to fail", lambda: copy.up.failures, PATIENCE)
        assert isinstance(copy.up.failures[0], ConnectionError), "reset, whichever end noticed it first"
    assert warnings(gateway) == []


def damaged(_gateway, _clients, file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def of_another_version(_gateway, _clients, file):
    data = bytearray(file.read_bytes())
    data[8:12] = bytes(4)
    file.write_bytes(data)


def not_a_journal(_gateway, _clients, file):
    file.write_text('{"format":4}')


def of_another_address(gateway, clients, _file):
    gateway.address = "192.168.77.3"
    gateway.write(clients)


@pytest.mark.parametrize("change, word", [
    (damaged, "damaged"), (of_another_version, "format 0"),
    (not_a_journal, "not a flow journal"),
    (of_another_address, "LAN address 192.168.77.2")])
def test_what_does_not_fit_is_said_once_and_left(gateway, clients, change, word):
    clients[0].machine.reaches(topology.SERVER)
    file = stop(gateway)
    change(gateway, clients, file)
    gateway.up()
    assert gateway.json("flows") == []
    (warning,) = warnings(gateway)
    assert word in warning


def test_totals_of_peers_survive_a_restart(gateway, clients):
    first, second = clients
    second.disconnect()

    def peer(client):
        return next(peer for peer in gateway.json("status")["peers"] if peer["name"] == client.name)

    before = peer(second)
    assert before["rx_bytes"] > 0 and before["last_handshake"] and before["last_seen"]
    assert gateway.stop() == 0
    # Unlike flows, totals do not depend on the shards.
    gateway.interface["shards"] = 1
    gateway.write(clients)
    gateway.up()
    after = peer(second)
    assert after["rx_bytes"] == before["rx_bytes"]
    for key in ("last_handshake", "last_seen"):
        then, now = (datetime.datetime.fromisoformat(report[key]) for report in (before, after))
        assert abs(now - then) <= datetime.timedelta(seconds=1)
    assert after["tx_bytes"] >= before["tx_bytes"] and not after["connected"]
    assert int(gateway.wg("transfer")[second.keys.public].split()[0]) == before["rx_bytes"]
    metrics = gateway.vcgate("metrics").stdout
    assert f'peer="{second.name}"}} {before["rx_bytes"]}\n' in metrics
    earlier = peer(first)["rx_bytes"]
    first.machine.reaches(gateway.inner, PATIENCE)
    assert peer(first)["rx_bytes"] > earlier
