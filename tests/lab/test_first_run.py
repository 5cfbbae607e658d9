"""`vcgate up` and `vcgate init` in an empty directory: all that a first user needs."""

import contextlib
import os
import pty
import stat
import subprocess
import tomllib

import pytest

from . import gateway as gateways
from . import net, qr, topology
from .net import run, wait_for
from .wireguard import Client


class FirstRun:
    """A vcgate that was started without a configuration."""

    def __init__(self, lab, directory):
        self.machine = lab.gateway
        self.dir = directory / "empty"
        self.dir.mkdir()
        self.process = self.machine.start(gateways.VCGATE, "up", "--lan", "lan", output=directory / "output",
                                          cwd=self.dir)
        # It is there a moment before its first client.
        wait_for("a configuration with a client", lambda: "peer" in self._written())
        self.config = self._written()
        (self.client,) = self.config["peer"]
        wait_for("the endpoint to answer", self._answers)

    def _written(self):
        file = self.dir / "vcgate.toml"
        return tomllib.loads(file.read_text()) if file.exists() else {}

    def _answers(self):
        assert self.process.returncode() is None, self.process.text()
        shown = self.vcgate("status", check=False)
        return shown.returncode == 0

    def vcgate(self, *argv, **options):
        return self.machine.run(gateways.VCGATE, *argv, cwd=self.dir, **options)

    def client_configuration(self):
        return self.vcgate("peer", "show", self.client["name"]).stdout


@pytest.fixture(scope="module")
def first_run(lab, tmp_path_factory):
    lab.new_gateway()
    made = FirstRun(lab, tmp_path_factory.mktemp("first"))
    yield made
    lab.disconnect()
    made.process.stop()


def test_two_cards_are_not_told_apart_by_the_default_route(lab, tmp_path):
    """The gateway's default route leads to its LAN, as at home; in an office it leads to the WAN."""
    lab.new_gateway()
    for command in ("init", "up"):
        done = lab.gateway.run(gateways.VCGATE, command, cwd=tmp_path, check=False)
        assert done.returncode == 1
        for word in ("wan (203.0.113.1/24", "lan (192.168.77.1/24, default route)", "--lan"):
            assert word in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_run_it_gets_no_files(lab, tmp_path):
    """With its LAN down, `up` would fail after it had written everything."""
    lab.new_gateway()
    lab.gateway.ip("link", "set", "lan", "down")
    done = lab.gateway.run(gateways.VCGATE, "up", "--lan", "lan", cwd=tmp_path, check=False, timeout=20)
    assert done.returncode == 1
    assert "no file was made" in done.stderr
    assert "ip link set lan up" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_keys_are_for_nobody_else(first_run):
    keys = first_run.dir / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    files = list(keys.iterdir())
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    server = (keys / "server.key").read_text()
    public = run("wg", "pubkey", input=server).stdout.strip()
    assert public in first_run.client_configuration()


def test_the_configuration_passes_its_check(first_run):
    first_run.vcgate("check")


def test_it_says_what_to_do_next(first_run):
    said = first_run.process.text()
    assert first_run.client["name"] in said
    assert "vcgate.toml" in said


def test_the_client_configuration_works_as_it_is(lab, first_run):
    client = lab.client(1)
    # The endpoint guesses its LAN address; this client reaches it over the WAN.
    client.machine.ip("route", "replace", topology.GATEWAY_LAN, "via", topology.GATEWAY_WAN)
    try:
        client.connect_quick(first_run.client_configuration())
        client.machine.reaches(topology.SERVER)
    finally:
        client.machine.ip("route", "delete", topology.GATEWAY_LAN)


def test_a_client_on_the_lan_itself_connects_with_wg_quick(lab, first_run):
    """Its kernel has a route to the LAN already, and the endpoint is one of the LAN's hosts."""
    machine = net.Namespace("near")
    net.link(machine, "lan", lab.probe, "192.168.77.50/24")
    client = Client(machine, 99, lab.scratch)
    try:
        client.connect_quick(first_run.client_configuration())
        (route,) = machine.ip_json("route", "get", topology.SERVER)
        assert route["dev"] != "lan"
        machine.reaches(topology.SERVER)
    finally:
        client.disconnect()
        machine.remove()


def test_a_terminal_is_asked(lab, first_run, tmp_path):
    """The LAN by its number, and the endpoint by the suggestion, which is the public address."""
    links = [link["ifname"] for link in lab.gateway.ip_json("link", "show")]
    number = [name for name in links if name in ("lan", "wan")].index("lan") + 1
    answers = f"9\n{number}\n\n"
    said = on_terminal(lab.gateway.command(str(gateways.VCGATE), "init"), answers, tmp_path)
    assert "not one of them" in said
    assert "[203.0.113.1]: " in said
    config = tomllib.loads((tmp_path / "vcgate.toml").read_text())
    assert config["lan"] == {"interface": "lan"}
    assert config["interface"]["endpoint"] == "203.0.113.1:51820"
    client = (tmp_path / "clients/client1.conf").read_text()
    assert "\nEndpoint = 203.0.113.1:51820\n" in client
    assert "AllowedIPs = 10.8.0.0/24, 192.168.77.0/24\n" in client


def on_terminal(argv, answers, directory):
    """Runs a command on a terminal of its own, types the answers, and returns all that is shown."""
    master, slave = pty.openpty()
    child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=directory)
    os.close(slave)
    os.write(master, answers.encode())
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    assert child.wait(10) == 0, shown.decode()
    return shown.decode()


def test_the_qr_code_says_the_same(first_run, tmp_path):
    shown = first_run.vcgate("peer", "show", first_run.client["name"], "--qr").stdout
    # The file's last line, a checksum for vcgate, is not for phones.
    text, checksum = first_run.client_configuration().strip().rsplit("\n", 1)
    assert checksum.startswith("# Written by vcgate")
    assert qr.decode(shown, tmp_path).strip() == text.strip()
