"""Peers that come and go while the endpoint runs."""

import tomllib

import pytest

from . import topology
from .net import wait_for

COMMENT = "# written by hand\n"


@pytest.fixture
def gateway(lab, start_gateway):
    gateway = start_gateway(lab.clients(1), "vcgate")
    gateway.config.write_text(COMMENT + gateway.config.read_text())
    return gateway


def peers_in_file(gateway):
    return {peer["name"]: peer for peer in tomllib.loads(gateway.config.read_text())["peer"]}


def test_a_peer_is_added_and_removed_live(lab, gateway):
    first, second = lab.clients(2)
    gateway.vcgate("peer", "add", "anna")
    second.connect_quick(gateway.vcgate("peer", "show", "anna").stdout)
    second.machine.reaches(topology.SERVER)
    in_file = peers_in_file(gateway)
    assert set(in_file) == {first.name, "anna"}
    assert set(gateway.wg("allowed-ips")) == {peer["public_key"] for peer in in_file.values()}
    assert "anna" in gateway.vcgate("peer", "list").stdout
    assert gateway.config.read_text().startswith(COMMENT)

    gateway.vcgate("peer", "remove", "anna")
    wait_for("anna to be shut out",
             lambda: second.machine.ping(topology.SERVER).returncode != 0)
    assert set(peers_in_file(gateway)) == {first.name}
    assert set(gateway.wg("allowed-ips")) == {first.keys.public}
    assert gateway.config.read_text().startswith(COMMENT)

    assert first.machine.ping(topology.SERVER).returncode == 0
    assert gateway.process.returncode() is None


def test_a_name_that_exists_is_refused(gateway):
    before = gateway.config.read_text()
    refused = gateway.vcgate("peer", "add", "user1", check=False)
    assert refused.returncode == 1
    assert "user1" in refused.stderr
    assert gateway.config.read_text() == before


def test_a_name_that_does_not_exist_cannot_be_removed(gateway):
    before = gateway.config.read_text()
    refused = gateway.vcgate("peer", "remove", "nobody", check=False)
    assert refused.returncode == 1
    assert "nobody" in refused.stderr
    assert gateway.config.read_text() == before


def test_wg_shows_what_vcgate_has(lab, gateway):
    (client,) = lab.clients(1)
    shown = gateway.machine.run("wg", "show", gateway.name).stdout
    assert gateway.public_key in shown
    assert client.keys.public in shown
    assert f"{client.inner}/32" in shown
    assert gateway.wg("endpoints")[client.keys.public].startswith("203.0.113.")
    assert int(gateway.wg("latest-handshakes")[client.keys.public]) > 0


def test_wg_changes_a_running_endpoint(lab, gateway):
    """`wg set` is the oracle of the UAPI: a peer that it adds can connect."""
    second = lab.client(2)
    gateway.machine.run("wg", "set", gateway.name, "peer", second.keys.public,
                        "allowed-ips", f"{second.inner}/32")
    second.connect(gateway)
    second.machine.reaches(topology.SERVER)
    gateway.machine.run("wg", "set", gateway.name, "peer", second.keys.public, "remove")
    wait_for("user 2 to be shut out",
             lambda: second.machine.ping(topology.SERVER).returncode != 0)
