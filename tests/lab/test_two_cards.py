"""A gateway whose default route is not on the LAN: what of `[lan]` does not fit it is named."""

import json
import re


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
