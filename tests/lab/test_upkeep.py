"""Set-up of `vcgate up` that the kernel or other programs remove is restored, and the log
says so."""

import re
import socket

import pytest

from . import topology
from .callers import echo, is_prohibited, says

OWN6 = "fd00:77::2"
PUT_BACK = "restored parts of the set-up that another program had removed: .*"


def link_flap(machine):
    machine.ip("link", "set", "lan", "down")
    machine.ip("link", "set", "lan", "up")


def dhcp_restarts(machine):
    machine.ip("address", "flush", "dev", "lan")
    machine.ip("address", "add", f"{topology.GATEWAY_LAN}/24", "dev", "lan")


def forwarding_off(machine):
    """As `sysctl --system` does, where Docker has switched it on."""
    machine.sysctl("net.ipv4.ip_forward", 1)
    machine.sysctl("net.ipv4.ip_forward", 0)


def firewall_reload(machine):
    """As Debian's nftables.service does."""
    machine.run("nft", "flush", "ruleset")


def command(*argv):
    """Something that another program on the machine does with `ip`."""
    def happens(machine):
        machine.ip(*argv)

    happens.__name__ = " ".join(argv)
    return happens


def from_scratch(lab, client, server=topology.SERVER):
    """Removes the clients' address from the neighbour tables of the LAN."""
    lab.server.ip("neighbour", "flush", "dev", "lan")
    client.machine.reaches(server)


@pytest.mark.parametrize("address, happens, named", [
    ("192.168.77.2", link_flap, "the answers for 192.168.77.2 on lan"),
    ("192.168.77.2", dhcp_restarts, "the answers for 192.168.77.2 on lan"),
    ("192.168.77.2", forwarding_off, "net.ipv4.conf.lan.forwarding=1"),
    ("192.168.77.2", command("route", "flush", "proto", "static"), "the route to 192.168.77.2/32"),
    ("192.168.77.2", command("route", "del", "192.168.77.2", "dev", "vclg0"), "the route to 192.168.77.2/32"),
    ("192.168.77.2", command("neigh", "del", "proxy", "192.168.77.2", "dev", "lan"),
     "the answers for 192.168.77.2 on lan"),
    ("192.168.77.2", command("address", "del", "10.8.0.1/32", "dev", "vclg0"), "the address 10.8.0.1 of vclg0"),
    ("192.168.77.2", command("link", "set", "vclg0", "down"), "the interface vclg0, up with MTU 1420"),
    ("auto", command("link", "set", "vclg0", "mtu", "1280"), "the interface vclg0, up with MTU 1420"),
    ("auto", link_flap, None),
    ("auto", firewall_reload, "the nftables table ip vcgate_vclg0"),
])
def test_it_comes_back(lab, start_gateway, address, happens, named):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate", address=address)
    client.machine.reaches(topology.SERVER)
    happens(gateway.machine)
    if named:
        gateway.process.wait_for_line(f"{PUT_BACK}{named}")
    from_scratch(lab, client)
    # As often as it happens.
    happens(gateway.machine)
    from_scratch(lab, client)
    if named:
        gateway.process.wait_for_line(f"{PUT_BACK}{named}(.*\n)+.*{PUT_BACK}{named}")
    assert "cannot restore a part" not in gateway.process.text()
    assert gateway.stop() == 0, gateway.process.text()


def test_ipv6_comes_back(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    with lab.ipv6_on_the_lan():
        gateway = start_gateway(clients, "vcgate", address6=OWN6)
        client.machine.reaches(topology.SERVER6)
        link_flap(gateway.machine)
        gateway.machine.ip("address", "add", f"{topology.GATEWAY_LAN6}/64", "dev", "lan")
        from_scratch(lab, client, topology.SERVER6)
        gateway.process.wait_for_line(f"{PUT_BACK}the answers for {OWN6} on lan")
        gateway.machine.ip("-6", "route", "del", OWN6, "dev", "vclg0")
        gateway.process.wait_for_line(f"{PUT_BACK}the route to {OWN6}/128")
        gateway.machine.ip("-6", "neigh", "del", "proxy", OWN6, "dev", "lan")
        from_scratch(lab, client, topology.SERVER6)
        gateway.process.wait_for_line(f"({PUT_BACK}the answers for {OWN6} on lan(.*\n)+.*){{2}}")


def test_forwards_come_back(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate", address="auto")
    gateway.vcgate("forward", "add", "8443", f"{client.inner}:8443")
    firewall_reload(gateway.machine)
    gateway.process.wait_for_line(PUT_BACK)
    with echo(client.machine, (client.inner, 8443)), lab.server.entered(), \
            socket.create_connection((topology.GATEWAY_LAN, 8443), 5) as caller:
        assert says(caller, b"in") == b"in"


def test_clients_reach_the_networks_that_the_lan_has_now(lab, make_gateway):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write(clients)
    gateway.config.write_text(re.sub("networks = .+\n", "", gateway.config.read_text()))
    lab.gateway.ip("address", "flush", "dev", "lan")
    gateway.up()
    client.connect(gateway)
    assert "clients can reach nothing" in gateway.process.text()
    assert is_prohibited(client.machine.ping(topology.SERVER))
    # A network without the server, then one with it.
    lab.gateway.ip("address", "add", f"{topology.GATEWAY_LAN}/29", "dev", "lan")
    gateway.vcgate("reload")
    assert client.machine.ping(topology.GATEWAY_LAN).returncode == 0
    assert is_prohibited(client.machine.ping(topology.SERVER))
    lab.gateway.ip("address", "add", f"{topology.GATEWAY_LAN}/24", "dev", "lan")
    client.machine.reaches(topology.SERVER)
    # No packet is lost between the two addresses.
    lab.gateway.ip("address", "flush", "dev", "lan")
    gateway.process.wait_for_line(PUT_BACK)
    assert not is_prohibited(client.machine.ping(topology.SERVER))
