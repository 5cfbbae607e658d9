"""`vcgate up` in an empty directory: all that a first user needs."""

import stat
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
        self.process = self.machine.start(gateways.VCGATE, "up", output=directory / "output",
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


def test_keys_are_for_nobody_else(first_run):
    keys = first_run.dir / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    files = list(keys.iterdir())
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    server = (first_run.dir / first_run.config["interface"]["private_key_file"]).read_text()
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
    # The endpoint guesses its LAN address; for this client it lies behind the WAN.
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


def test_the_qr_code_says_the_same(first_run, tmp_path):
    shown = first_run.vcgate("peer", "show", first_run.client["name"], "--qr").stdout
    assert qr.decode(shown, tmp_path).strip() == first_run.client_configuration().strip()
