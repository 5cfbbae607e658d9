"""A gateway whose default route is not on the LAN: what of `[lan]` does not fit it is named, and a full
tunnel leaves by the other card with that card's address."""

import contextlib
import json
import re

import pytest

from . import hoststate, topology
from .net import wait_for

INTERNET = "198.51.100.7"
INTERNET6 = "2001:db8:5::7"
ROUTER = "203.0.113.254"
ROUTER6 = "2001:db8:113::254"


@contextlib.contextmanager
def internet(lab):
    """A host on the Internet, beyond a router of the WAN; the gateway's default routes lead there."""
    addresses = [("lo", f"{INTERNET}/32"), ("br0", f"{ROUTER}/24"),
                 ("lo", f"{INTERNET6}/128"), ("br0", f"{ROUTER6}/64")]
    for interface, address in addresses:
        lab.wan.ip("address", "add", address, "dev", interface)
    lab.gateway.ip("route", "replace", "default", "via", ROUTER, "dev", "wan")
    lab.gateway.ip("-6", "route", "replace", "default", "via", ROUTER6, "dev", "wan")
    try:
        yield
    finally:
        for interface, address in addresses:
            lab.wan.ip("address", "delete", address, "dev", interface)


def networks(gateway, *given):
    text = re.sub("networks = .+\n", f"networks = {json.dumps(given)}\n", gateway.config.read_text())
    gateway.config.write_text(text)


def test_networks_of_the_wrong_card_are_named(lab, make_gateway):
    gateway = make_gateway("vcgate", address="auto")
    gateway.write(lab.clients(1))
    assert gateway.vcgate("check").stderr == ""
    networks(gateway, "203.0.113.0/24")
    said = ('lan.networks: 203.0.113.0/24 is reached over wan, not over lan.interface "lan"; '
            'write ["192.168.77.0/24"], or leave the key out')
    assert said in gateway.vcgate("check").stderr
    (warning,) = json.loads(gateway.vcgate("check", "--json").stdout)["warnings"]
    assert f"{warning['what']}; {warning['remedy']}" == said
    found = json.loads(gateway.vcgate("doctor", "--json", check=False).stdout)
    assert [check["verdict"] for check in found if check["name"] == "lan-networks"] == ["warn"]
    gateway.up()
    assert said in gateway.process.text()


def test_an_interface_that_does_not_exist_is_named(lab, make_gateway):
    gateway = make_gateway("vcgate", address="auto")
    gateway.write(lab.clients(1))
    gateway.config.write_text(gateway.config.read_text().replace('"lan"', '"eth9"'))
    done = gateway.vcgate("check")
    assert re.search(r'this machine has no interface "eth9"; choose one of .*\blan\b.*', done.stderr)


@pytest.mark.parametrize("address, address6", [("auto", "auto"), ("192.168.77.2", "fd00:77::2")])
def test_a_full_tunnel_leaves_by_the_other_card_translated(lab, make_gateway, tmp_path, address, address6):
    (client,) = clients = lab.clients(1)
    with lab.ipv6_on_the_lan():
        gateway = make_gateway("vcgate", address=address, address6=address6)
        gateway.write(clients)
        networks(gateway, "0.0.0.0/0", "::/0")
        with internet(lab):
            before = hoststate.of(lab.gateway)
            sniffer = lab.wan.capture("br0", f"host {INTERNET} or host {INTERNET6}", tmp_path / "wan")
            gateway.up()
            client.connect(gateway)
            client.machine.run("wg", "set", client.device.name, "peer", gateway.public_key, "allowed-ips",
                               "0.0.0.0/0,::/0")
            for host in (INTERNET, INTERNET6):
                client.machine.ip("route", "add", host, "dev", client.device.name)
            client.machine.reaches(INTERNET)
            client.machine.reaches(INTERNET6)
            client.machine.reaches(topology.SERVER)
            seen = wait_for("an answer on the wire",
                            lambda: f"{INTERNET6} > {topology.GATEWAY_WAN6}" in sniffer.text() and sniffer.text())
            for line in filter(lambda line: ">" in line, seen.splitlines()):
                assert re.search(rf" ({topology.GATEWAY_WAN}|{topology.GATEWAY_WAN6}) > |"
                                 rf" > ({topology.GATEWAY_WAN}|{topology.GATEWAY_WAN6}): ", line), line
            # A firewall that is reloaded flushes all tables.
            gateway.machine.run("nft", "flush", "ruleset")
            gateway.process.wait_for_line("restored .*nftables table")
            client.machine.reaches(INTERNET)
            client.machine.reaches(INTERNET6)
            assert gateway.stop() == 0, gateway.process.text()
            assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


def test_when_the_lan_is_off_nothing_leaves_by_the_other_card_untranslated(lab, start_gateway, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate")
    with internet(lab):
        client.machine.reaches(topology.SERVER)
        sniffer = lab.wan.capture("br0", f"host {topology.SERVER}", tmp_path / "wan")
        gateway.machine.ip("link", "set", "lan", "down")
        gateway.process.wait_for_line("clients reach some destinations over an interface other than.*wan")
        assert client.machine.ping(topology.SERVER).returncode != 0
        wait_for("packets on the wire", lambda: topology.SERVER in sniffer.text())
        assert " 192.168.77.2 >" not in sniffer.text()
