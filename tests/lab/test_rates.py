"""Rate limits of peers, with the kernel's TCP at both ends: within 10 % of the limit, and without a
delay for others. iperf3 counts payload; the limit counts inner packets of 1420 bytes."""

import re

import pytest

from . import iperf, topology

UP, DOWN = 20, 40
PAYLOAD = 1368 / 1420
SHAPES = {
    "tcp up": ([], UP * PAYLOAD),
    "tcp down": (["-R"], DOWN * PAYLOAD),
    "four streams up": (["-P4"], UP * PAYLOAD),
    "four streams down": (["-P4", "-R"], DOWN * PAYLOAD),
    "udp up": (["-u", "-b", "80M", "-l", "1300"], UP * 1300 / 1328),
    "udp down": (["-u", "-b", "80M", "-l", "1300", "-R"], DOWN * 1300 / 1328),
}


@pytest.fixture
def limited(lab, start_gateway):
    """Two clients, of which the first is limited at run time."""
    clients = lab.clients(2)
    gateway = start_gateway(clients)
    gateway.vcgate("peer", "set", clients[0].name, f"rate_up={UP}Mbit", f"rate_down={DOWN}Mbit")
    return clients


@pytest.mark.parametrize("shape", SHAPES)
def test_a_limited_client_has_its_rate(limited, iperf_servers, shape):
    options, expected = SHAPES[shape]
    # Without the start, when TCP fills the queue.
    result = iperf.measure(limited[0], iperf_servers(), "-O", "1", *options, seconds=4)
    print(f"{shape}: {result}, expected {expected:.1f} Mbit/s")
    assert abs(result.megabits / expected - 1) < 0.1


def test_others_do_not_wait(limited, iperf_servers, tmp_path):
    busy, other = limited
    servers = iperf_servers()
    servers.expect(iperf.FIRST_PORT)
    load = busy.machine.start(*iperf.command(servers, "-P4", seconds=3), output=tmp_path / "load")
    text = other.machine.run("ping", "-c", "20", "-i", "0.1", topology.SERVER).stdout
    load.wait(30)
    print(re.search(r"rtt.*", text).group())
    assert " 0% packet loss" in text
