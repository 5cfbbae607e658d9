"""The log never holds up the endpoint, whatever reads it."""

import signal

from . import topology
from .net import wait_for

FULL = """
import fcntl, os, sys
reader, writer = os.pipe()
os.set_inheritable(reader, True)
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"x" * 4096)
except BlockingIOError:
    pass
os.set_blocking(writer, True)
os.dup2(writer, 2)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Runs a command whose stderr is a pipe that is full, and that nobody ever reads."""


def test_a_stderr_that_nobody_reads_stops_nothing(lab, make_gateway):
    first, second = lab.clients(2)
    gateway = make_gateway("vcgate")
    gateway.write([first])
    gateway.up("python3", "-c", FULL)
    first.connect(gateway)
    first.machine.reaches(topology.SERVER)
    gateway.vcgate("peer", "add", "anna")
    second.connect_quick(gateway.vcgate("peer", "show", "anna").stdout)
    second.machine.reaches(topology.SERVER)
    # Far more lines than a pipe takes.
    for _ in range(300):
        gateway.process.send(signal.SIGHUP)
        assert gateway.answers()
    assert len(gateway.json("status")["peers"]) == 2
    assert first.machine.ping(topology.SERVER).returncode == 0
    assert gateway.stop() == 0
    wait_for("the interface to be gone", lambda: gateway.name not in gateway.machine.ip("link").stdout)
