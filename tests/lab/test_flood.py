"""Users get through a flood of handshake initiations, with the help of cookies."""

import pathlib
import sys

import pytest

from . import gateway as gateways
from . import net, topology

RATE = 2000
SOURCES = [f"203.0.113.{number}" for number in range(210, 250)]


@pytest.fixture
def attacker(lab):
    machine = net.Namespace("flood")
    net.link(machine, "wan", lab.wan, *(f"{source}/24" for source in SOURCES))
    yield machine
    machine.remove()


def test_a_user_connects_again_during_a_flood(lab, start_gateway, attacker, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate")
    flood = attacker.start(
        sys.executable, pathlib.Path(__file__).with_name("flood.py"), gateway.public_key,
        topology.GATEWAY_WAN, gateways.PORT, RATE, *SOURCES, output=tmp_path / "flood")
    flood.wait_for_line(r"cookies [1-9]")
    client.machine.reaches(topology.SERVER)
    for _ in range(3):
        client.connect(gateway, seconds=30)
        client.machine.reaches(topology.SERVER)
    flood.stop()
    print(flood.text().splitlines()[-1])
