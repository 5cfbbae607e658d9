"""SMB1 through bad cables: loss and reorder between a client and the gateway, where whole segments of
TCP vanish with the datagrams, and between the gateway and the server, where they vanish after they
were rewritten."""

import contextlib
import os
import re
import time

import pytest

from . import lossy, smb, topology
from .samba import PASSWORD

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
    """Who sent segments with a SACK option."""
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
    first = smb.logon(users[0], samba.address)
    smb.put(first, "first", sent)
    (tmp_path / "sent").write_bytes(sent)
    users[1].machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"user2%{PASSWORD}", "-s", "/dev/null",
        "-m", "NT1", "--option=client min protocol=NT1",
        "-c", f"put {tmp_path}/sent second; get second {tmp_path}/received")
    second = smb.logon(users[1], samba.address)
    # Nobody was cut off.
    assert smb.digest(smb.get(first, "first")) == smb.digest(smb.get(second, "second"))
    assert (tmp_path / "received").read_bytes() == sent
    assert (samba.data / "first").read_bytes() == (samba.data / "second").read_bytes() == sent
    assert log.zero_logons() == 0
    assert log.kills() == []

    # The network was as bad as it should be, and what was sent again was rewritten again.
    capture.stop()
    assert selective_acknowledgements(capture) == {gateway.seen_as, topology.SERVER}
    setups = lossy.vc_numbers(lan)
    print(f"{percent} %: {len(setups)} session setups, {sum(map(len, setups.values()))} copies")
    assert len(setups) == 6
    for copies in setups.values():
        assert len(copies) >= 2
        assert 0 not in copies and len(set(copies)) == 1


def seconds_to_put(user, path, name):
    """How long smbclient needs for a file, which sends one write after the other at once."""
    begin = time.monotonic()
    user.machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"user1%{PASSWORD}", "-s", "/dev/null",
        "-m", "NT1", "--option=client min protocol=NT1", "-c", f"put {path} {name}")
    return time.monotonic() - begin


def test_bulk_through_loss_is_hardly_slower_than_without_the_hook(lab, start_gateway, samba, on_bad_cables,
                                                                  tmp_path):
    """What is held the client is told of by the gateway, so that Linux sends again what is lost by its
    SACK scoreboard and does not wait for its timer."""
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
    ratio = seconds["assign"] / seconds["off"]
    print(f"{seconds} seconds, ratio {ratio:.2f}")
    assert ratio < 2
