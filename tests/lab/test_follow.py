"""`vcgate smb --follow`: what a person sees of a good day, and of a bad one."""

import json

import pytest

from . import smb
from .gateway import VCGATE
from .net import wait_for

WARNING = "the server dropped connections of several users"


@pytest.fixture
def follow(tmp_path):
    """A function that starts to follow a gateway: as text and as JSON, from the beginning on."""
    started = []

    def start(gateway):
        def process(name, *options):
            started.append(gateway.machine.start(
                VCGATE, "smb", "--follow", *options, "--config", gateway.config,
                output=tmp_path / name))
            return started[-1]

        return process("follow.txt"), process("follow.json", "--json")

    yield start
    for process in started:
        process.stop()


def entries(process):
    # The last line may be under way.
    lines = process.text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def of(process, event):
    return [entry for entry in entries(process) if entry["event"] == event]


def test_a_good_day(lab, samba, start_gateway, follow):
    users = lab.clients(2)
    gateway = start_gateway(users)
    text, data = follow(gateway)
    kept = [smb.logon(user, samba.address) for user in users]
    wait_for("two logons of two legs each", lambda: len(of(data, "logon")) == 4)
    seen = [(e["peer"], e["vc_sent"], e["vc_forwarded"], e["outcome"]) for e in of(data, "logon")]
    assert seen == [("user1", 0, 1, "rewritten")] * 2 + [("user2", 0, 2, "rewritten")] * 2
    assert all(entry["extended_security"] and not entry["signed"] for entry in of(data, "logon"))
    kept.append(smb.logon(users[0], samba.address))
    wait_for("the probe's answer", lambda: [e["outcome"] for e in of(data, "stale")] == ["probed", "alive"])
    wait_for("the same in words", lambda: "still in use, not changed" in text.text())
    print(text.text())
    numbers = [entry["number"] for entry in entries(data)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert of(data, "closed") == of(data, "mass_disconnect") == []


def test_a_bad_day(lab, samba, start_gateway, follow):
    """The hook may only observe: user 3's logon costs users 1 and 2 their connections."""
    users = lab.clients(3)
    gateway = start_gateway(users, "vcgate", hook="observe")
    text, data = follow(gateway)
    victims = [smb.logon(users[0], samba.address)]
    # Without a zero of his own, which would drop user 1.
    victims.append(smb.logon(users[1], samba.address, vc=1))
    smb.logon(users[2], samba.address)
    wait_for("the verdict", lambda: of(data, "mass_disconnect"))
    (disconnect,) = of(data, "mass_disconnect")
    assert disconnect["peer"] == "user3"
    closed = of(data, "closed")
    assert {entry["peer"] for entry in closed} == {"user1", "user2"}
    assert {entry["cause"]["peer"] for entry in closed} == {"user3"}
    wait_for("the same in words", lambda: "WARNING" in text.text())
    print(text.text())
    assert gateway.process.text().count(WARNING) == 1
