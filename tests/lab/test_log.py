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
"""Runs a command whose stderr is a full pipe without a reader."""


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


def test_the_level_changes_while_it_runs_and_changes_have_an_author(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    log = gateway.process
    client.machine.reaches(topology.SERVER)
    log.wait_for_line(rf"peer connected peer={client.name} source=[\d.]+:\d+")

    assert gateway.vcgate("log", "level").stdout == "info\n"
    assert "DEBUG" not in log.text()
    assert gateway.vcgate("log", "level", "debug").stdout == "debug\n"
    client.disconnect()
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    log.wait_for_line("DEBUG new session")
    refused = gateway.vcgate("log", "level", "a=b=c", check=False)
    assert refused.returncode == 1 and "is not a log level: write error, warn" in refused.stderr
    assert gateway.vcgate("log", "level", "info").stdout == "info\n"

    def by(kind, text):
        log.wait_for_line(rf'caller\{{by="{kind}" uid=0 pid=\d+\}}.*{text}')

    gateway.vcgate("peer", "add", "anna")
    by("command", "peer anna: added")
    key = client.keys.public
    gateway.machine.run("wg", "set", gateway.name, "peer", key, "persistent-keepalive", "25",
                        "endpoint", "192.0.2.9:999")
    by("wg", f"peer {client.name}: changed persistent_keepalive")
    by("wg", f"peer {client.name}: endpoint set to 192.0.2.9:999")
    gateway.vcgate("reload")
    by("command", f"peer {client.name}: changed persistent_keepalive")
    by("command", "was read again")
    gateway.machine.run("wg", "set", gateway.name, "peer", key, "remove")
    by("wg", f"peer {client.name}: removed")
    log.wait_for_line(rf"peer disconnected: it was removed peer={client.name}")
