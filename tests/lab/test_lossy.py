"""SMB1 through bad cables: loss and reorder between a client and the gateway, where whole segments of
TCP vanish with the datagrams, and between the gateway and the server, where they vanish after they
were rewritten."""

import collections
import contextlib
import os
import re
import socket
import struct
import threading
import time

import pytest

from . import lossy, smb, topology
from .samba import PASSWORD

PATIENCE = 100
"""Seconds: back-off makes a chain of losses long."""
SIZE = 400_000
BULK = 5_000_000


@pytest.fixture
def on_bad_cables(lab, tmp_path):
    """A function that puts bad cables between clients and gateway, and gateway and server."""
    with contextlib.ExitStack() as stack:
        def connect(clients, percent):
            for client in clients:
                stack.enter_context(lossy.cable(client.machine, "wan", lab.wan, percent, client.name,
                                                tmp_path / f"cable-{client.name}"))
            return stack.enter_context(lossy.cable(
                lab.gateway, "lan", lab.probe, percent, percent, tmp_path / "cable-lan"))

        yield connect


def selective_acknowledgements(capture):
    """Senders of segments with a SACK option."""
    return {line.split()[2].rsplit(".", 1)[0] for line in capture.text().splitlines()
            if re.search(r"\bsack \d", line)}


@pytest.mark.parametrize("percent", [1, 3, 5])
def test_copies_through_loss_and_reorder(lab, start_gateway, samba, on_bad_cables, tmp_path, percent):
    users = lab.clients(2)
    gateway = start_gateway(users, "vcgate")
    lan = on_bad_cables(users, percent)
    log = samba.mark()
    capture = lab.gateway.capture("lan", "tcp port 445", tmp_path / "capture")

    sent = os.urandom(SIZE)
    first = smb.logon(users[0], samba.address, timeout=PATIENCE)
    smb.put(first, "first", sent)
    (tmp_path / "sent").write_bytes(sent)
    users[1].machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"user2%{PASSWORD}", "-s", "/dev/null",
        "-m", "NT1", "--option=client min protocol=NT1",
        "-c", f"put {tmp_path}/sent second; get second {tmp_path}/received")
    second = smb.logon(users[1], samba.address, timeout=PATIENCE)
    # No client was cut off.
    assert smb.digest(smb.get(first, "first")) == smb.digest(smb.get(second, "second"))
    assert (tmp_path / "received").read_bytes() == sent
    assert (samba.data / "first").read_bytes() == (samba.data / "second").read_bytes() == sent
    assert log.zero_logons() == 0
    assert log.kills() == []

    # The network was as bad as it should be, and what was sent again was rewritten again.
    capture.stop()
    assert selective_acknowledgements(capture) == {gateway.external_address, topology.SERVER}
    setups = lossy.vc_numbers(lan)
    print(f"{percent} %: {len(setups)} session setups, {sum(map(len, setups.values()))} copies")
    assert len(setups) == 6
    for copies in setups.values():
        # The cable loses the first one.
        assert len(copies) > 1
        (number,) = set(copies)
        assert number != 0


def seconds_to_put(user, path, name):
    """How long smbclient needs for a file, which sends one write after the other at once."""
    begin = time.monotonic()
    user.machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"user1%{PASSWORD}", "-s", "/dev/null",
        "-m", "NT1", "--option=client min protocol=NT1", "-c", f"put {path} {name}")
    return time.monotonic() - begin


def test_bulk_through_loss_arrives_with_the_hook_and_without(lab, start_gateway, samba, on_bad_cables, tmp_path):
    """Losses are random, so the times are only printed; what a lost header costs is the next
    test's, by what Linux counts."""
    users = lab.clients(1)
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(BULK))
    seconds = {}
    for hook in "off", "assign":
        gateway = start_gateway(users, "vcgate", hook=hook)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lossy.cable(users[0].machine, "wan", lab.wan, 1, "bulk",
                                            tmp_path / f"cable-{hook}"))
            seconds[hook] = seconds_to_put(users[0], sent, hook)
        assert (samba.data / hook).read_bytes() == sent.read_bytes()
        gateway.stop()
    print(f"{seconds} seconds, ratio {seconds['assign'] / seconds['off']:.2f}")


def messages(size):
    """A stream of SMB1 messages as a client sends them that waits for no answer: a megabyte and more."""
    smb1 = b"\xffSMB\x2f".ljust(32, b"\0") + b"\0\0\0" + os.urandom(size)
    return (struct.pack(">I", len(smb1)) + smb1) * (1_500_000 // size)


def tcp_counters(machine):
    """TCP counters of Linux in a machine."""
    names, values = [line.split()[1:] for line in machine.run("cat", "/proc/net/netstat").stdout.splitlines()
                     if line.startswith("TcpExt:")]
    return collections.Counter(dict(zip(names, map(int, values))))


def send_all(user, machine, stream):
    """Sends a stream from a user to the machine's port 445, where a plain listener is; seconds."""
    got = bytearray()
    with machine.entered(), socket.create_server((topology.PROBE, 445)) as server:
        def listen():
            with server.accept()[0] as end:
                while more := end.recv(1 << 16):
                    got.extend(more)

        listener = threading.Thread(target=listen)
        listener.start()
        with user.machine.entered():
            client = socket.create_connection((topology.PROBE, 445), 60)
        begin = time.monotonic()
        with client:
            client.sendall(stream)
        listener.join()
    assert got == stream
    return time.monotonic() - begin


@pytest.mark.parametrize("size", [700, 4000])
def test_a_lost_segment_of_small_messages_costs_linux_no_timer(lab, start_gateway, tmp_path, size):
    """Segments after a lost message header are held, and the server has nothing to acknowledge: the client
    learns of it by the gateway's own acknowledgements."""
    users = lab.clients(1)
    timers, seconds = {}, {}
    stream = messages(size)
    for hook in "off", "assign":
        gateway = start_gateway(users, "vcgate", hook=hook)
        with lossy.cable(users[0].machine, "wan", lab.wan, 1, "small", tmp_path / f"cable-{hook}"):
            before = tcp_counters(users[0].machine)
            seconds[hook] = send_all(users[0], lab.probe, stream)
        counted = tcp_counters(users[0].machine) - before
        timers[hook] = counted["TCPTimeouts"]
        print(hook, f"{seconds[hook]:.2f} s", {name: n for name, n in counted.items() if re.search(
            "Timeouts|Recovery|FastRetrans|LossProbes|DSACK|Reneging|PAWS|Discard", name)})
        assert counted["TCPSackRecovery"] > 0
        assert counted["TCPSACKDiscard"] == 0
        # To a client it may look so if the server's acknowledgement of what was released gets lost.
        assert counted["TCPSACKReneging"] <= 2
        gateway.stop()
    # A timer may run out all the same: what was sent again may get lost too.
    assert timers["assign"] <= timers["off"] + 5
