"""Verdicts of an independent NAT behaviour tester (RFC 5780, coturn's) about vcgate and the
kernel's masquerade in its place."""

import json
import re
import socket

import pytest

from . import topology

SECOND = "192.168.77.11"
PORT = 3478
LOCAL = 40000
FREE = {"filtering": "endpoint-independent"}
QUESTIONS = {
    "mapping, alone": ("-m",),
    # Another client has the same local port: only now it shows whether the mapping depends on
    # whether the port is free.
    "mapping, in a crowd": ("-m", "-l", LOCAL),
    "filtering": ("-f",),
    "hairpinning": ("-H",),
}


@pytest.fixture
def stun(lab, tmp_path):
    """A STUN server that answers from either of two addresses and two ports."""
    with lab.server_has(SECOND):
        server = lab.server.start(
            "turnserver", "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp",
            "--log-file", "stdout", "--simple-log", "--pidfile", tmp_path / "turnserver.pid",
            "-L", topology.SERVER, "-L", SECOND, "-p", PORT, output=tmp_path / "turnserver.log")
        for port in (PORT, PORT + 1):
            lab.server.listening(port, udp=True)
        yield
        server.stop()


@pytest.fixture
def discover(lab, start_gateway, stun, tmp_path):
    """A function that runs the tester in a client of a gateway; its verdicts by question."""
    user, other = clients = lab.clients(2)

    def discover(kind, **options):
        gateway = start_gateway(clients, kind, **options)
        with other.machine.entered():
            busy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with busy:
            busy.bind((other.inner, LOCAL))
            busy.sendto(b"mine", (SECOND, PORT))
            testers = {question: user.machine.start(
                "turnutils_natdiscovery", *how, "-L", user.inner, "-p", PORT, topology.SERVER,
                output=tmp_path / question) for question, how in QUESTIONS.items()}
            for tester in testers.values():
                tester.wait(30)
        gateway.stop()
        return {question: verdict(tester.text()) for question, tester in testers.items()}

    return discover


def verdict(text):
    """The tester's own words, without what they have in common."""
    if "Hairpinning" in text:
        return "Works" if "successful hairpinning" in text else "Does not work"
    (found,) = re.findall(r"^NAT with (.*) (?:Mapping|Filtering)!$", text, re.MULTILINE)
    return found


def test_rfc4787_req1_req8_req9_the_tester_s_verdict(discover, record_property):
    verdicts = {
        "vcgate": discover("vcgate"),
        "vcgate, filtering free": discover("vcgate", nat=FREE),
        "kernel masquerade": discover("wireguard-go"),
    }
    record_property("behaviour", json.dumps(verdicts))
    print()
    for question in QUESTIONS:
        print(question, *(f"{kind}: {seen[question]}" for kind, seen in verdicts.items()), sep="\n  ")
    ours, free, kernel = verdicts.values()
    assert ours == {
        "mapping, alone": "Endpoint Independent",
        "mapping, in a crowd": "Endpoint Independent",
        "filtering": "Address Dependent",
        # The client never sent to the LAN address: the filter holds for what turns there too.
        "hairpinning": "Does not work",
    }
    assert free == ours | {"filtering": "Endpoint Independent", "hairpinning": "Works"}
    assert kernel["mapping, in a crowd"] != "Endpoint Independent", "the crowd shows nothing"
    assert kernel["filtering"] == "Address and Port Dependent"
