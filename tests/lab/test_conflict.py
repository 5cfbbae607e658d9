"""Another station on the LAN takes the clients' address while vcgate runs: it is defended, once in ten
seconds, and shown."""

import json

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.sendrecv import sendp

from .net import wait_for

OWN, OWN6 = "192.168.77.2", "fd00:77::2"
STATION = "02:00:00:00:00:99"
ALL_NODES = "33:33:00:00:00:01"
GATEWAY = "02:00:00:00:00:02"

TAKEN = {
    OWN: (Ether(src=STATION, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=STATION, psrc=OWN, pdst=OWN),
          f"arp[6:2] == 1 and ether src {GATEWAY}", f"who-has {OWN}.* tell {OWN}"),
    OWN6: (Ether(src=STATION, dst=ALL_NODES) / IPv6(src=OWN6, dst="ff02::1", hlim=255)
           / ICMPv6ND_NA(tgt=OWN6, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=STATION),
           f"icmp6 and ether src {GATEWAY} and ip6[40] == 136", f"tgt is {OWN6}"),
}


@pytest.mark.parametrize("address", TAKEN)
def test_it_is_defended_once_and_shown(lab, make_gateway, tmp_path, address):
    packet, expression, answer = TAKEN[address]
    with lab.ipv6_on_the_lan():
        gateway = make_gateway("vcgate", address6=OWN6)
        lab.gateway.ip("address", "replace", "fd00:77::1/64", "dev", "lan")
        gateway.start(lab.clients(1))
        assert gateway.json("status")["lan"]["conflicts"] == []
        sniffer = lab.probe.capture("br0", expression, tmp_path / "answers")
        with lab.probe.entered():
            sendp(packet, iface="br0", count=3, verbose=False)
        (conflict,) = wait_for("three packets to be noted", lambda: [
            conflict for conflict in gateway.json("status")["lan"]["conflicts"] if conflict["packets"] == 3])
        assert conflict["address"] == address
        station = conflict["station"]
        assert station.replace("-", ":") == STATION
        sniffer.wait_for_line(answer)
        assert len([line for line in sniffer.text().splitlines() if address in line]) == 1
        assert f"conflict    {address} is used by {station} too" in gateway.vcgate("status").stdout
        warned = f"another station on the LAN, {station}, uses the LAN address {address}"
        assert gateway.process.text().count(warned) == 1


def test_doctor_names_it_while_the_endpoint_runs(lab, start_gateway):
    gateway = start_gateway(lab.clients(1), "vcgate")

    def check():
        found = json.loads(gateway.vcgate("doctor", "--json", check=False).stdout)
        return next(check for check in found if check["name"] == "lan-address")

    assert check()["verdict"] == "ok"
    lab.probe.ip("address", "add", f"{OWN}/24", "dev", "br0")
    try:
        assert check()["verdict"] == "fail"
    finally:
        lab.probe.ip("address", "delete", f"{OWN}/24", "dev", "br0")


def test_a_station_that_took_it_during_a_restart_is_found(lab, make_gateway):
    """A restart does not wait for probes: the address was in use until then, and so it is defended."""
    with lab.ipv6_on_the_lan():
        gateway = make_gateway("vcgate", address6=OWN6)
        lab.gateway.ip("address", "replace", "fd00:77::1/64", "dev", "lan")
        gateway.start(lab.clients(1))
        assert gateway.stop() == 0
        taken = [f"{OWN}/24", f"{OWN6}/64"]
        for address in taken:
            lab.probe.ip("address", "add", address, "dev", "br0")
        try:
            gateway.up()
            wait_for("both conflicts", lambda: {
                conflict["address"] for conflict in gateway.json("status")["lan"]["conflicts"]} == {OWN, OWN6})
        finally:
            for address in taken:
                lab.probe.ip("address", "delete", address, "dev", "br0")
        assert gateway.process.text().count("uses the LAN address") == 2


def test_a_station_that_looks_for_a_free_address_is_answered(lab, start_gateway):
    start_gateway(lab.clients(1), "vcgate")

    def is_free(address):
        return lab.probe.run("arping", "-D", "-c2", "-w2", "-I", "br0", address, check=False).returncode == 0

    assert not is_free(OWN)
    assert is_free("192.168.77.99")
