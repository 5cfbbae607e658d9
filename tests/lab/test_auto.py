"""`address = "auto"`: clients appear as the host's own LAN address. The basic tests once more."""

import pytest

from . import iperf, topology


@pytest.fixture
def gateway(lab, start_gateway):
    return start_gateway(lab.clients(3), "vcgate", address="auto")


@pytest.mark.parametrize("port", [445, 139])
def test_assign_cuts_nobody_off(gateway, open_office, port):
    office = open_office(port)
    office.assert_nobody_is_cut_off()
    assert office.log.sources() == {topology.GATEWAY_LAN}


def test_ping(lab, gateway):
    assert lab.client(1).machine.ping(topology.TUNNEL).returncode == 0
    assert lab.client(1).machine.ping(topology.SERVER).returncode == 0
    assert lab.client(1).machine.ping(topology.GATEWAY_LAN).returncode == 0


@pytest.mark.parametrize("options", [[], ["-R"], ["-u", "-b", "50M", "-l", "1300"]],
                         ids=["up", "down", "udp"])
def test_iperf(lab, gateway, iperf_servers, options):
    result = iperf.measure(lab.client(1), iperf_servers(), *options)
    print(result)
    assert result.bytes > 0
