"""Several shards: clients of different ones work side by side, and the order of each client's packets
is kept."""

import pathlib

import pytest

from . import iperf

WAYS = pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])


@WAYS
def test_two_clients_load_two_shards(lab, start_gateway, iperf_servers, tmp_path, direction):
    clients = lab.clients(2)
    gateway = start_gateway(clients, shards=2)
    assert gateway.json("status")["shards"] == 2
    results = iperf.measure_all(clients, iperf_servers(2), tmp_path, *direction, seconds=3)
    ticks = cpu_ticks(gateway.process.pid, "shard")
    print(f"{', '.join(map(str, results))}; CPU ticks of the shards: {ticks}")
    assert all(result.bytes > 0 for result in results)
    # Each does the work of its own client: who only hands packets on needs far less.
    assert len(ticks) == 2 and 4 * min(ticks) > max(ticks)


@WAYS
@pytest.mark.parametrize("rate", ["20M", "500M"], ids=["in reach", "too much"])
def test_nothing_is_overtaken(lab, start_gateway, iperf_servers, tmp_path, direction, rate):
    """Datagrams have numbers. TCP's own count of what was overtaken is a guess where segments or
    acknowledgements get lost too."""
    clients = lab.clients(2)
    start_gateway(clients, shards=2)
    results = iperf.measure_all(clients, iperf_servers(2), tmp_path, *direction,
                                "-u", "-b", rate, "-l", "1200", "--get-server-output", seconds=3)
    print(*results, sep="; ")
    assert all(result.bytes > 0 for result in results)
    assert [result.out_of_order for result in results] == [0, 0]


def test_one_shard_serves_all(lab, start_gateway, iperf_servers, tmp_path):
    clients = lab.clients(2)
    gateway = start_gateway(clients, shards=1)
    assert gateway.json("status")["shards"] == 1
    results = iperf.measure_all(clients, iperf_servers(2), tmp_path, seconds=1)
    assert all(result.bytes > 0 for result in results)


def test_clients_of_different_shards_meet(lab, start_gateway):
    clients = lab.clients(3)
    start_gateway(clients, shards=2, client_to_client=True)
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


def cpu_ticks(pid, name):
    """User and system time of each thread of this name."""
    stats = [task.read_text() for task in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    fields = [stat.rsplit(")", 1)[1].split() for stat in stats if f"({name})" in stat]
    return [int(each[11]) + int(each[12]) for each in fields]
