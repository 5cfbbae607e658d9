"""The service manager's watchdog is fed as long as all threads work, and no longer."""

import signal
import socket

import pytest

from . import freeze, topology
from .net import wait_for

TIMEOUT = 2
"""In seconds, of the watchdog."""


class Manager:
    """The part of a service manager that waits for reports."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = ["env", f"NOTIFY_SOCKET={path}", f"WATCHDOG_USEC={TIMEOUT * 1000000}"]

    def fed(self, seconds):
        """Whether a feed arrives within this time; earlier ones do not count."""
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.recv(1024)
            except BlockingIOError:
                break
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1024).strip() == b"WATCHDOG=1"
        except TimeoutError:
            return False

    def close(self):
        self._socket.close()


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def gateway(make_gateway, lab, manager):
    gateway = make_gateway("vcgate", shards=2)
    gateway.write(lab.clients(1))
    gateway.up(*manager.environment)
    wait_for("the first feed", lambda: manager.fed(TIMEOUT))
    return gateway


@pytest.mark.parametrize("name, number", [("shard", 0), ("shard", 1), ("vcgate", 0)])
def test_one_thread_that_hangs_ends_the_feeds(gateway, manager, name, number):
    thread = freeze.threads(gateway.process.pid, name)[number]
    assert manager.fed(TIMEOUT)
    with freeze.stopped(thread):
        # A feed may be on its way.
        manager.fed(0.2)
        assert not manager.fed(2 * TIMEOUT)
        if name == "shard":
            gateway.process.wait_for_line("a thread of the data plane hangs")
    wait_for("feeds again", lambda: manager.fed(TIMEOUT))


def test_a_process_that_the_watchdog_ends_is_replaced(lab, gateway, manager):
    (client,) = lab.clients(1)
    client.connect(gateway)
    (thread, _) = freeze.threads(gateway.process.pid, "shard")
    with freeze.stopped(thread):
        manager.fed(0.2)
        assert not manager.fed(TIMEOUT)
        # As systemd does, unless WatchdogSignal= is set.
        gateway.process.send(signal.SIGABRT)
    assert gateway.process.wait() == -signal.SIGABRT
    gateway.up(*manager.environment)
    client.machine.reaches(topology.SERVER, 30)
    assert manager.fed(TIMEOUT)
