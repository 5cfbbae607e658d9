"""vcgate is killed while copies of all kinds run through it: none of them notices more than a pause."""

import contextlib
import hashlib
import os
import pathlib
import random
import signal
import socket
import threading
import time

import pytest
from impacket.smbconnection import SMBConnection

from . import smb, topology
from .net import wait_for
from .samba import PASSWORD

SHARDS = 2
PORT = 7200
FORWARD = 7300
PIECE = 1 << 14
LIMIT = 10
"""In seconds: the maximum pause that a test accepts. A client whose session is gone would be silent for 15."""


class Copy:
    """A copy in one direction over two connected sockets, in a thread for each end, until `finish`.
    Each end computes a digest."""

    def __init__(self, source, target):
        self._ends = source, target
        self._end = threading.Event()
        self._digests = hashlib.sha256(), hashlib.sha256()
        self.pieces, self.pause, self.failure = 0, 0, None
        self._threads = [threading.Thread(target=self._try, args=(work,), daemon=True)
                         for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _try(self, work):
        try:
            work()
        except OSError as error:
            self.failure = error

    def _send(self):
        while not self._end.is_set():
            piece = random.randbytes(PIECE)
            self._ends[0].sendall(piece)
            self._digests[0].update(piece)
            time.sleep(0.001)  # the machine has other work
        self._ends[0].shutdown(socket.SHUT_WR)

    def _receive(self):
        last = time.monotonic()
        while piece := self._ends[1].recv(PIECE):
            now = time.monotonic()
            self.pause, last = max(self.pause, now - last), now
            self._digests[1].update(piece)
            self.pieces += 1

    def progress(self):
        assert self.failure is None, self.failure
        return self.pieces

    def finish(self):
        self._end.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.failure is None, self.failure
        assert self._digests[0].digest() == self._digests[1].digest()

    def close(self):
        self._end.set()
        for end in self._ends:
            with end, contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class User:
    """An SMB user who reads a file over and over. `smb.Reader` compares digests."""

    def __init__(self, connection, name):
        data = random.randbytes(1 << 20)
        smb.put(connection, name, data)
        self._reader = smb.Reader(connection, name, data)

    def progress(self):
        assert self._reader.alive(), self._reader.cut_off
        return self._reader.reads

    def finish(self):
        self._reader.stop()
        assert self._reader.alive(), self._reader.cut_off
        assert self._reader.wrong == 0

    def close(self):
        pass


class Echo:
    """A UDP socket of a client whose datagrams a host on the LAN answers. Each answer comes to the same
    socket, so the client's port on the LAN has not changed."""

    def __init__(self, near, far):
        self._near, self._far = near, far
        near.settimeout(0.2)
        far.settimeout(0.2)
        self.ports, self.answers = set(), 0

    def progress(self):
        with contextlib.suppress(OSError):
            self._near.send(b"request")
            data, peer = self._far.recvfrom(100)
            self.ports.add(peer)
            self._far.sendto(data, peer)
            self.answers += bool(self._near.recv(100))
        return self.answers

    def finish(self):
        assert len(self.ports) == 1, self.ports

    def close(self):
        self._near.close()
        self._far.close()


def connected(server, client, family, address, port):
    """A connection from a client to a host on the LAN: both ends."""
    with server.entered():
        listener = socket.create_server((address, port), family=family)
    with listener, client.machine.entered():
        near = socket.create_connection((address, port), 20)
        far, _ = listener.accept()
    for end in (near, far):
        end.settimeout(60)
    return near, far


def forwarded(lab, gateway, client):
    """A connection from the LAN to a client through a forward: the server's end and the client's."""
    gateway.vcgate("forward", "add", FORWARD, f"{client.inner}:{FORWARD}")
    with client.machine.entered():
        listener = socket.create_server((client.inner, FORWARD))
    with listener, lab.server.entered():
        far = socket.create_connection((gateway.external_address, FORWARD), 20)
        near, _ = listener.accept()
    for end in (near, far):
        end.settimeout(60)
    return far, near


def udp(lab, client):
    with lab.server.entered():
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.bind((topology.SERVER, PORT))
    with client.machine.entered():
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.connect((topology.SERVER, PORT))
    return near, far


@pytest.fixture
def gateway(start_gateway, lab):
    with lab.ipv6_on_the_lan():
        yield start_gateway(lab.clients(3), "vcgate", shards=SHARDS, address6="fd00:77::2")


@pytest.fixture
def running(lab, gateway, samba):
    """A copy of each kind, by name."""
    first, second, third = lab.clients(3)
    with contextlib.ExitStack() as stack:
        def made(kind, *arguments):
            return stack.enter_context(contextlib.closing(kind(*arguments)))

        with second.machine.entered():
            smb3 = SMBConnection("FILESERVER", samba.address, timeout=60)
        smb3.login(second.name, PASSWORD)
        ip, ip6 = socket.AF_INET, socket.AF_INET6
        up = connected(lab.server, first, ip, topology.SERVER, PORT)
        down = connected(lab.server, second, ip, topology.SERVER, PORT + 1)
        v6 = connected(lab.server, third, ip6, topology.SERVER6, PORT + 2)
        copies = {
            "smb1": made(User, smb.logon(first, samba.address, timeout=60), "kill1.bin"),
            "smb3": made(User, smb3, "kill3.bin"),
            "tcp up": made(Copy, *up),
            "tcp down": made(Copy, *reversed(down)),
            "ipv6": made(Copy, *v6),
            "forward": made(Copy, *forwarded(lab, gateway, third)),
            "udp": made(Echo, *udp(lab, second)),
        }
        all_move(copies)
        yield copies


def all_move(copies, seconds=30):
    """Waits until each copy has made progress; the time that each needed."""
    start = time.monotonic()
    before = {name: copy.progress() for name, copy in copies.items()}
    took = {}

    def moved():
        for name, copy in copies.items():
            if name not in took and copy.progress() > before[name]:
                took[name] = time.monotonic() - start
        return len(took) == len(copies)

    wait_for("all copies to continue", moved, seconds)
    return took


def kill(gateway):
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL


def finish(copies, gateway):
    for copy in copies.values():
        copy.finish()
    lines = gateway.process.text().splitlines()
    assert not [line for line in lines if "WARN" in line and "an earlier run was killed" not in line]


def test_no_copy_ends_when_it_is_killed(gateway, running, samba):
    log = samba.mark()
    kill(gateway)
    gateway.launch()
    took = all_move(running)
    print({name: f"{seconds:.2f} s" for name, seconds in took.items()})
    assert max(took.values()) < LIMIT
    assert log.kills() == []
    finish(running, gateway)


def test_no_copy_ends_when_its_device_is_deleted(gateway, running):
    gateway.machine.ip("link", "delete", gateway.name)
    assert gateway.process.wait() == 1
    gateway.launch()
    print({name: f"{seconds:.2f} s" for name, seconds in all_move(running).items()})
    finish(running, gateway)


SMALL_DISK = ("unshare", "--mount", "sh", "-c",
              'mount -t tmpfs -o size=128k,mode=700 none /run/vcgate && exec "$@"', "sh")


def test_a_full_disk_costs_the_journal_and_no_traffic(lab, make_gateway):
    client = lab.client(1)
    gateway = make_gateway("vcgate")
    gateway.write([client])
    gateway.up(*SMALL_DISK)
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    folder = pathlib.Path(f"/proc/{gateway.process.pid}/root/run/vcgate")
    full = folder / "full"
    with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with client.machine.entered(), contextlib.ExitStack() as stack:
        for _ in range(400):
            flow = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            flow.sendto(b"", (topology.SERVER, PORT))
    gateway.process.wait_for_line("cannot write the flow journal")
    client.machine.reaches(topology.SERVER)
    assert not list(folder.glob("*.flows"))
    full.unlink()
    gateway.process.wait_for_line("the flow journal is complete again", 30)
    assert gateway.process.text().count("cannot write the flow journal") == 1
    (journal,) = folder.glob("*.flows")
    assert journal.stat().st_size > 400 * 30


def test_no_copy_ends_in_a_crash_loop(gateway, running):
    start = time.monotonic()
    for _ in range(10):
        kill(gateway)
        gateway.up()
    print(f"10 kills in {time.monotonic() - start:.1f} s")
    all_move(running)
    finish(running, gateway)


def test_no_copy_ends_when_it_is_stopped_for_a_while_and_then_killed(gateway, running):
    """VCGATE_LAB_PAUSE is the length of the pause in seconds; that by hand is 60."""
    gateway.process.send(signal.SIGSTOP)
    time.sleep(float(os.environ.get("VCGATE_LAB_PAUSE", "3")))  # the pause is the test
    gateway.process.send(signal.SIGCONT)
    print({name: f"{seconds:.2f} s" for name, seconds in all_move(running, 60).items()})
    kill(gateway)
    gateway.up()
    all_move(running)
    finish(running, gateway)
