"""A firewall of the gateway that drops what clients need: `up` warns of it, `doctor` names it, and the
remedy that both name works."""

import json

import pytest

from . import names, topology
from .gateway import PORT, Vcgate

TUN = Vcgate.name
NFT_FORWARD = "add table inet mine; add chain inet mine f { type filter hook forward priority 0; policy drop; }"
NFT_INPUT = (f"add table inet mine; add chain inet mine i {{ type filter hook input priority 0; }}; "
             f"add rule inet mine i udp dport {PORT} drop")
# As many firewalls: what is not known is dropped.
NFT_DNS = (f"add table inet mine; add chain inet mine i {{ type filter hook input priority 0; policy drop; }}; "
           f"add rule inet mine i ct state established accept; add rule inet mine i udp dport {PORT} accept")


def open_to(tool):
    return f"{tool} -I FORWARD -i {TUN} -j ACCEPT; {tool} -I FORWARD -o {TUN} -j ACCEPT"


FORWARD = "packets between the tunnel and the LAN"
INPUT = f"clients' datagrams to UDP port {PORT}"
CLOSED = {
    # the tool: (how it is closed, the check of doctor, what is dropped by what, the remedy)
    "iptables-legacy": (["iptables-legacy", "-P", "FORWARD", "DROP"], "forward-filter",
                        f"FORWARD of iptables-legacy drops {FORWARD}", open_to("iptables-legacy")),
    "iptables": (["iptables", "-P", "FORWARD", "DROP"], "forward-filter",
                 f"FORWARD of iptables drops {FORWARD}", open_to("iptables")),
    "nft": (["nft", NFT_FORWARD], "forward-filter", f"inet mine f drops {FORWARD}",
            f'nft insert rule inet mine f iifname "{TUN}" accept; '
            f'nft insert rule inet mine f oifname "{TUN}" accept'),
    "iptables input": (["iptables", "-P", "INPUT", "DROP"], "input-filter",
                       f"INPUT of iptables drops {INPUT}",
                       f"iptables -I INPUT -p udp --dport {PORT} -j ACCEPT"),
    "nft input": (["nft", NFT_INPUT], "input-filter", f"inet mine i drops {INPUT}",
                  f"nft insert rule inet mine i udp dport {PORT} accept"),
    "nft dns": (["nft", NFT_DNS], "dns-filter", "inet mine i drops DNS questions of clients",
                f'nft insert rule inet mine i iifname "{TUN}" udp dport 53 accept; '
                f'nft insert rule inet mine i iifname "{TUN}" tcp dport 53 accept'),
}


def check(gateway, name):
    found = json.loads(gateway.vcgate("doctor", "--json", check=False).stdout)
    (check,) = (check for check in found if check["name"] == name)
    return check


@pytest.mark.parametrize("how", CLOSED)
def test_it_is_named_and_the_remedy_works(lab, start_gateway, how):
    close, name, meaning, remedy = CLOSED[how]
    (client,) = clients = lab.clients(1)
    lab.gateway.run(*close)
    gateway = start_gateway(clients, "vcgate", address="auto", connect=False)
    gateway.process.wait_for_line("WARN.*drops")
    assert f"{meaning}; {remedy}" in gateway.process.text()
    found = check(gateway, name)
    assert (found["verdict"], found["meaning"], found["remedy"]) == ("fail", meaning, remedy)
    for command in remedy.split("; "):
        gateway.machine.run("sh", "-c", command.replace('"', '\\"') if how.startswith("nft") else command)
    assert check(gateway, name)["verdict"] == "ok"
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    if name == "dns-filter":
        for option in ("+notcp", "+tcp"):
            assert names.dig(client.machine, topology.TUNNEL, "user1.peers.lan.internal", option) == [client.inner]


def test_a_program_that_has_the_dns_port_is_named(lab, make_gateway, tmp_path):
    gateway = make_gateway("vcgate", address="auto")
    gateway.write(lab.clients(1))
    assert check(gateway, "dns-port")["verdict"] == "ok"
    with names.dnsmasq(lab.gateway, "0.0.0.0", tmp_path):
        found = check(gateway, "dns-port")
        assert found["verdict"] == "warn"
        assert found["meaning"].startswith('the program "dnsmasq" has port 53 of all addresses: vcgate cannot')
        gateway.up()
        gateway.process.wait_for_line("WARN.*cannot answer DNS at")
    gateway.stop()
    gateway.up()
    assert check(gateway, "dns-port")["verdict"] == "ok", "its own sockets"


def test_a_peer_with_every_address_is_explained(lab, make_gateway):
    gateway = make_gateway("vcgate", address="auto")
    gateway.write(lab.clients(1))
    gateway.config.write_text(gateway.config.read_text().replace('"10.8.0.11/32"', '"0.0.0.0/0"').replace(
        'networks = ["192.168.77.0/24"]\n', ""))
    found = check(gateway, "peer-prefixes")
    assert found["verdict"] == "fail"
    assert "no client reaches the LAN" in found["meaning"]
    assert "lan.networks" in found["remedy"]
