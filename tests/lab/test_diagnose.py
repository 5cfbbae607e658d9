"""`vcgate diagnose` on captures of the failure and of its cure, with tshark as the oracle."""

import json

import pytest

from .gateway import VCGATE
from .net import run

ZERO = "smb.cmd==0x73 && smb.flags.response==0 && smb.vc==0"


class Capture:
    """Packets on an interface during the `with` block."""

    def __init__(self, machine, interface, path):
        self._machine = machine
        self._interface = interface
        self.path = path

    def __enter__(self):
        self._tcpdump = self._machine.start(
            "tcpdump", "-n", "-U", "-Z", "root", "--immediate-mode", "-i", self._interface, "-s", 0,
            "-w", self.path, "tcp", output=f"{self.path}.log")
        self._tcpdump.wait_for_line("listening on")
        return self

    def __exit__(self, *_):
        self._tcpdump.stop()

    def diagnosis(self, *options):
        """Report of vcgate; its frames must be those that tshark finds."""
        report = json.loads(run(VCGATE, "diagnose", self.path, "--json", *options).stdout)
        # The oracle.
        theirs = run("tshark", "-r", self.path, "-Y", ZERO, "-T", "fields", "-e", "frame.number")
        frames = [request["frame"] for request in report["requests"]]
        assert frames == [int(line) for line in theirs.stdout.split()]
        print(run(VCGATE, "diagnose", self.path, *options).stdout)
        return report


@pytest.fixture
def lan(lab, tmp_path):
    """A capture at the file server."""
    return Capture(lab.server, "lan", tmp_path / "lan.pcap")


def test_the_failure(lab, start_gateway, open_office, lan, tmp_path):
    clients = lab.clients(3)
    gateway = start_gateway(clients, "vcgate", hook="off")
    first = clients[0]
    inside = Capture(first.machine, first.device.name, tmp_path / "inside.pcap")
    with lan, inside:
        open_office(445).assert_the_first_is_cut_off()
    report = lan.diagnosis("--against", inside.path)
    assert report["verdict"]["kind"] == "cut_off"
    assert report["verdict"]["confidence"] in ("likely", "certain")
    (victim,) = [v for request in report["requests"] for v in request["victims"]]
    assert victim["client"].split(":")[0] == gateway.external_address
    assert victim["inner"].split(":")[0] == first.inner
    assert victim["delay_ms"] < 1000 and victim["busy"]


def test_the_cure(lab, start_gateway, open_office, lan):
    start_gateway(lab.clients(3), "vcgate", hook="assign")
    with lan:
        open_office(445).assert_nobody_is_cut_off()
    report = lan.diagnosis()
    assert report["verdict"]["kind"] == "no_zero"
    assert report["counts"]["session_setups"] >= 6
    assert report["counts"]["zeros"] == report["counts"]["victims"] == 0
