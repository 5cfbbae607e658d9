"""Bulk traffic of all shapes gets through. The figures are printed, not judged: see benches/compare."""

import pytest

from . import iperf

SHAPES = {
    "tcp up": [],
    "tcp down": ["-R"],
    "four streams up": ["-P4"],
    "four streams down": ["-P4", "-R"],
    "udp up": ["-u", "-b", "50M", "-l", "1300"],
    "udp down": ["-u", "-b", "50M", "-l", "1300", "-R"],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_one_client(lab, start_gateway, iperf_servers, shape):
    (client,) = clients = lab.clients(1)
    start_gateway(clients)
    result = iperf.measure(client, iperf_servers(), *SHAPES[shape])
    print(f"{shape}: {result}")
    assert result.bytes > 0


@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_ten_clients_at_once(lab, start_gateway, iperf_servers, tmp_path, direction):
    clients = lab.clients(10)
    start_gateway(clients)
    results = iperf.measure_all(clients, iperf_servers(10), tmp_path, *direction)
    for client, result in zip(clients, results, strict=True):
        print(f"{client.name}: {result}")
    assert all(result.bytes > 0 for result in results)
