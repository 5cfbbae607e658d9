"""iperf3 between clients and the server."""

import json
import re

from .net import wait_for

FIRST_PORT = 5201


class Servers:
    """`count` iperf3 servers: one serves one client at a time."""

    def __init__(self, machine, address, directory, count=1, first=FIRST_PORT):
        self.address = address
        self.ports = range(first, first + count)
        self._processes = [
            machine.start("iperf3", "-s", "-p", port, "--forceflush",
                          output=directory / f"iperf3-{port}.log")
            for port in self.ports]
        self._runs = dict.fromkeys(self.ports, 0)
        for port in self.ports:
            machine.listening(port)

    def expect(self, port):
        """Waits until the server has closed the last run's socket and listens again: whoever
        connects in between is reset."""
        process = self._processes[self.ports.index(port)]
        listened = lambda: process.text().count("Server listening") > self._runs[port]
        wait_for(f"iperf3 on port {port} to listen", listened)
        self._runs[port] += 1

    def stop(self):
        for process in self._processes:
            process.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Result:
    """Bytes that arrived at the receiver."""

    def __init__(self, report):
        if "error" in report:
            raise RuntimeError(f"iperf3: {report['error']}")
        received = report["end"].get("sum_received") or report["end"]["sum"]
        self.bytes = received["bytes"]
        self.megabits = received["bits_per_second"] / 1e6
        self.lost_percent = report["end"].get("sum", {}).get("lost_percent")
        # Only the receiver knows: upwards that is the server, if it is asked (--get-server-output).
        here = [stream["udp"]["out_of_order"] for stream in report["end"]["streams"] if "udp" in stream]
        there = re.findall(r"(\d+) datagrams received out-of-order", report.get("server_output_text", ""))
        self.out_of_order = sum(here) + sum(map(int, there))

    def __str__(self):
        lost = "" if self.lost_percent is None else f", {self.lost_percent:.1f} % lost"
        return f"{self.megabits:.0f} Mbit/s, {self.bytes / 1e6:.0f} MB{lost}"


def command(servers, *options, port=FIRST_PORT, seconds=2):
    """Without seconds, the options say how long."""
    time = [] if seconds is None else ["-t", seconds]
    return ["iperf3", "-J", "-c", servers.address, "-p", port, *time, *options]


def measure(client, servers, *options, **where):
    """Runs one iperf3 client to its end."""
    servers.expect(where.get("port", FIRST_PORT))
    return Result(json.loads(client.machine.run(*command(servers, *options, **where)).stdout))


def measure_all(clients, servers, directory, *options, seconds=2):
    """One iperf3 for each client, all at once, each with a server of its own."""
    for port in servers.ports:
        servers.expect(port)
    running = [
        client.machine.start(*command(servers, *options, port=port, seconds=seconds),
                             output=directory / f"iperf3-{client.name}.json")
        for client, port in zip(clients, servers.ports, strict=True)]
    for process in running:
        process.wait(seconds + 30)
    return [Result(json.loads(process.text())) for process in running]
