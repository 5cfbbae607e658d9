"""Several shards: clients of different ones work side by side, and the order of each client's packets
is kept."""

import pathlib

import pytest

from . import iperf

REORDERED = ("TcpExtTCPSACKReorder", "TcpExtTCPRenoReorder", "TcpExtTCPTSReorder")
"""How often a sender's TCP saw that segments had overtaken each other (nstat)."""
SEGMENT = 1400
BY_CHANCE = 1 / 1000
"""The share of segments that may overtake others: it happened once, 48 of 270,000, perhaps by veth's
queues, one for each CPU. The simulated network allows none."""


@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_two_clients_load_two_shards_and_nothing_is_overtaken(
        lab, start_gateway, iperf_servers, tmp_path, direction):
    clients = lab.clients(2)
    gateway = start_gateway(clients, shards=2)
    assert gateway.json("status")["shards"] == 2
    machines = [lab.server, *(client.machine for client in clients)]
    before = [overtaken(machine) for machine in machines]
    results = iperf.measure_all(clients, iperf_servers(2), tmp_path, *direction, seconds=3)
    ticks = cpu_ticks(gateway.process.pid, "shard")
    print(f"{', '.join(map(str, results))}; CPU ticks of the shards: {ticks}")
    assert all(result.bytes > 0 for result in results)
    after = [overtaken(machine) for machine in machines]
    segments = sum(result.bytes for result in results) / SEGMENT
    print(f"overtaken: {sum(after) - sum(before)} of {segments:.0f} segments")
    assert sum(after) - sum(before) <= segments * BY_CHANCE
    # Each does the work of its own client: who only hands packets on needs far less.
    assert len(ticks) == 2 and 4 * min(ticks) > max(ticks)


def test_one_shard_serves_all(lab, start_gateway, iperf_servers, tmp_path):
    clients = lab.clients(2)
    gateway = start_gateway(clients, shards=1)
    assert gateway.json("status")["shards"] == 1
    results = iperf.measure_all(clients, iperf_servers(2), tmp_path, seconds=1)
    assert all(result.bytes > 0 for result in results)


def test_clients_of_different_shards_meet(lab, start_gateway):
    clients = lab.clients(3)
    start_gateway(clients, shards=2, clients_may_meet=True)
    for here in clients:
        for there in clients:
            here.machine.reaches(there.inner)


def test_the_port_changes_for_all_shards(lab, start_gateway):
    clients = lab.clients(2)
    gateway = start_gateway(clients, shards=2)
    gateway.machine.run("wg", "set", gateway.name, "listen-port", "51999")
    for client in clients:
        client.machine.run("wg", "set", client.device.name, "peer", gateway.public_key,
                           "endpoint", gateway.endpoint.replace("51820", "51999"))
        client.machine.reaches(gateway.inner)


def overtaken(machine):
    lines = machine.run("nstat", "-asz", *REORDERED).stdout.splitlines()
    counts = [int(line.split()[1]) for line in lines if line.startswith("TcpExt")]
    assert len(counts) == len(REORDERED)
    return sum(counts)


def cpu_ticks(pid, name):
    """User and system time of each thread of this name."""
    stats = [task.read_text() for task in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    fields = [stat.rsplit(")", 1)[1].split() for stat in stats if f"({name})" in stat]
    return [int(each[11]) + int(each[12]) for each in fields]
